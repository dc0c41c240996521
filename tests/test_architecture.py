"""The rooms of the house: which module may import which, read from the sources with `ast`, `.pyx` included."""

from __future__ import annotations

import ast
import graphlib
import itertools
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from Cython.Build.Dependencies import create_dependency_tree
from Cython.Compiler.Main import CompilationOptions, Context

import lsps2fast
import lsps2fast_plugin

ROOTS = {"lsps2fast": Path(lsps2fast.__file__).parent, "lsps2fast_plugin": Path(lsps2fast_plugin.__file__).parent}
PAGES = Path(__file__).parents[1]
IMPURE = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "pyln"}
SWITCH = "lsps2fast._backend"  # the one module of the core that looks at the environment
LSPS = "lsps2fast.lsps"
CODECS = {"lsps2fast." + name for name in ("_tlv", "onion", "bolt11", "_hook", "_hook_py", "_scan", "hook_replies")}
MACHINE = {"lsps2fast." + name for name in ("_fsm", "_live", "_parts", "_payment", "_sessions", "actions", "table")}
ROOMS = ("cln", "service", "client", "simnode", "tools")
MAY = {"cln": "", "service": "cln", "client": "cln", "simnode": "", "tools": "cln service client simnode"}


class Arrow(NamedTuple):
    """`importer` needs `imported`; `late`: not when it is imported, only for types or inside a function."""

    importer: str
    imported: str
    late: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    found = {}
    for package, root in ROOTS.items():
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".pxd", ".pyx")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(tree: ast.AST, package: str, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the dotted names that a module in `package` imports, each with whether it does so late."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{origin}.{alias.name}", late) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports(node, package, late=True)
        else:
            yield from imports(node, package, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parse(source: str) -> ast.AST:
    """Return the tree of a module; of one in Cython's own syntax the imports alone."""
    try:
        return ast.parse(source)
    except SyntaxError:
        found = re.findall(r"^from [\w.]+ c?import (?:\([^)]*\)|[^(\n]*)|^c?import .*", source, re.M)
        return ast.parse(re.sub(r"\bcimport\b", "import", "\n".join(found)))


def arrows_of(module: str, source: str) -> list[Arrow]:
    """Return the arrows that start at a module."""
    is_package = module in MODULES and MODULES[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    return [Arrow(module, module_of(name), late) for name, late in imports(parse(source), package)]


def module_of(name: str) -> str:
    """Return the module of ours that an imported name is or is in, or else its first part."""
    name = name.removeprefix("cython.cimports.")
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


ARROWS = [arrow for name, path in MODULES.items() for arrow in arrows_of(name, path.read_text(encoding="utf-8"))]


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def room(module: str) -> str | None:
    """Return the room of the plugin that a module is in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lsps2fast_plugin" and len(parts) > 1 else None


def why_not(arrow: Arrow) -> str | None:
    """Return the rule that an arrow breaks, None for one that is allowed."""
    start, end, _ = arrow
    here, there = room(start), room(end)
    if is_in(start, "lsps2fast"):
        if end.split(".")[0] in IMPURE and start != SWITCH:
            return "the core has no clock, no I/O, no threads, no randomness"
        if is_in(end, "lsps2fast_plugin"):
            return "the core knows no plugin"
        if start in MACHINE and (is_in(end, LSPS) or end in CODECS):
            return "the session machine needs neither messages nor codecs"
        return "a codec needs no messages" if start in CODECS and is_in(end, LSPS) else None
    if here is None:
        return "the package itself imports nothing" if there else None
    if here == "simnode" and is_in(end, "lsps2fast") and end != "lsps2fast.onion":
        return "the embedded node has codecs of its own"
    if there not in (None, here, *MAY[here].split()):
        return f"{here}/ may import {MAY[here] or 'no other room'}"
    return None


def broken(arrows: list[Arrow]) -> list[str]:
    return [f"{arrow}: {why}" for arrow in arrows if (why := why_not(arrow))]


def test_every_arrow_is_allowed() -> None:
    """Architecture §2: core, cln, service, client, simnode, tools."""
    assert broken(ARROWS) == []


def test_every_module_is_in_a_room_and_was_read() -> None:
    """A new folder needs a line in `MAY`; extensions are read, too."""
    assert {room(name) for name in MODULES if is_in(name, "lsps2fast_plugin")} == {None, *ROOMS}
    assert {"lsps2fast._fsm", "lsps2fast._sessions", "lsps2fast_plugin.cln._reader"} <= MODULES.keys()
    assert Arrow("lsps2fast_plugin.cln._stream", "lsps2fast._scan", False) in ARROWS
    assert {arrow.importer for arrow in ARROWS} >= MACHINE - {"lsps2fast.actions"}


def sort(arrows: Iterable[Arrow]) -> None:
    """Raise CycleError for a circle."""
    order = graphlib.TopologicalSorter[str]()
    for arrow in arrows:
        if arrow.imported in MODULES and arrow.imported != arrow.importer:
            order.add(arrow.importer, arrow.imported)
    order.prepare()


def test_nothing_is_imported_in_a_circle() -> None:
    """Not even for types, nor inside functions: a part names the part it needs, or a protocol of its own."""
    sort(ARROWS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lsps2fast_plugin.simnode.channels", "if TYPE_CHECKING:\n    from .party import Party"),
        ("lsps2fast_plugin.simnode.process", "if TYPE_CHECKING:\n    from .plugins import PluginOwner"),
        ("lsps2fast_plugin.service.driver", "def f():\n    from .app import Service"),
        ("lsps2fast_plugin.client.channel_watch", "from . import app"),
        ("lsps2fast._fsm", "from lsps2fast._sessions import Sessions"),
    ],
)
def test_a_planted_circle_is_found(module: str, source: str) -> None:
    """At the top, for types only, and inside a function."""
    assert module in MODULES
    with pytest.raises(graphlib.CycleError):
        sort([*ARROWS, *arrows_of(module, source)])


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("lsps2fast._fsm", "import time", "the core has no clock, no I/O, no threads, no randomness"),
        ("lsps2fast.lsps.buys", "from os import urandom", "the core has no clock, no I/O, no threads, no randomness"),
        ("lsps2fast.lsps.buys", "from lsps2fast_plugin.cln import clock", "the core knows no plugin"),
        ("lsps2fast._sessions", "from lsps2fast.lsps.lsps2 import BUY", "the session machine needs neither messages"),
        ("lsps2fast._fsm", "from cython.cimports.lsps2fast._tlv import x", "the session machine needs neither"),
        ("lsps2fast._fsm", "from lsps2fast cimport _scan\ncdef int x = 1", "the session machine needs neither"),
        ("lsps2fast._tlv", "def f():\n    from lsps2fast.lsps import lsps0", "a codec needs no messages"),
        ("lsps2fast_plugin.cln.rpc", "from lsps2fast_plugin.service.coins import Coins", "cln/ may import no other"),
        ("lsps2fast_plugin.service.app", "import lsps2fast_plugin.client.app", "service/ may import cln"),
        ("lsps2fast_plugin.client.app", "from lsps2fast_plugin.service import coins", "client/ may import cln"),
        ("lsps2fast_plugin.simnode.htlcs", "from lsps2fast_plugin.cln.rpc import Rpc", "simnode/ may import no other"),
        ("lsps2fast_plugin.simnode.htlcs", "from lsps2fast import bolt11", "the embedded node has codecs of its own"),
        ("lsps2fast_plugin.service.app", "from lsps2fast_plugin.tools import cli", "service/ may import cln"),
    ],
)
def test_a_planted_import_is_found(module: str, line: str, rule: str) -> None:
    """The rules are rules: each kind of forbidden arrow is told."""
    (said,) = broken(arrows_of(module, line))
    assert rule in said


HEADERS = {name: path.with_suffix(".pxd") for name, path in MODULES.items() if path.with_suffix(".pxd").exists()}


def headers(module: str) -> set[Path]:
    """Return the headers that a module in Cython needs, each itself or through another."""
    found, more = set[str](), {module}
    while more:
        found |= more
        more = {arrow.imported for arrow in ARROWS if arrow.importer in found and arrow.imported in HEADERS} - found
    return {HEADERS[name] for name in found & HEADERS.keys()}


def test_cython_sees_every_header() -> None:
    """A build makes anew what a changed header is in: no cimport has a form that Cython's dependency tree overlooks."""
    options = CompilationOptions(include_path=[str(root.parent) for root in ROOTS.values()])
    tree = create_dependency_tree(Context.from_options(options), quiet=True)
    for name, path in MODULES.items():
        if path.suffix == ".pyx":
            assert headers(name) <= {Path(file).absolute() for file in tree.all_dependencies(str(path))}


def test_pages_import_what_exists() -> None:
    """README and docs: every name that their Python imports from us is there."""
    pages = [PAGES / "README.md", *(PAGES / "docs").rglob("*.md")]
    code = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)]
    names = {name for block in code for name, _ in imports(ast.parse(block), "") if is_in(name, "lsps2fast")}
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def on_the_map(page: str) -> set[str]:
    """Return the modules that the page's map names: folders flush left, names before two blanks."""
    text = page.split("## The map")[1].split("```text\n")[1].split("```")[0]
    folder, named = "", set()
    for line in text.splitlines():
        words = line.strip().split("  ")[0]
        if line.startswith(" "):
            named |= {f"{folder}.{name}" for name in words.split()}
        else:
            folder = words.removeprefix("src/").removeprefix("plugin/").rstrip("/").replace("/", ".")
    return named


def test_the_map_names_every_module() -> None:
    """docs/explanation/architecture.md: what is there and nothing else."""
    page = (PAGES / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    headers_alone = {name for name, path in MODULES.items() if path.suffix == ".pxd"}
    assert on_the_map(page) == MODULES.keys() - folders - headers_alone


BEGINS = {"background", "create_task", "ensure_future", "spawn"}


def coroutine_names(trees: Iterable[ast.AST]) -> set[str]:
    """Return the names of all coroutine functions, and of parameters that are annotated as such."""
    names = set()
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg) and re.match(
            r"Callable\[.*, (Coroutine|Awaitable)\[", ast.unparse(node.annotation) if node.annotation else ""
        ):
            names.add(node.arg)
    return names - set(dir(dict))


def begun_with_another(tree: ast.AST, coroutines: set[str]) -> list[str]:
    """Return the calls that give a task a coroutine which has another one as its argument."""

    def called(node: ast.AST) -> str:
        return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""

    tasks = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) in BEGINS]
    outer = [work for task in tasks for work in task.args if isinstance(work, ast.Call)]
    return [
        ast.unparse(work)
        for work in outer
        if any(called(each) in coroutines for each in [*work.args, *(word.value for word in work.keywords)])
    ]


def test_no_task_begins_with_a_coroutine_in_hand() -> None:
    """A task that is cancelled before it begins never awaits the coroutine it was given; give it what makes one."""
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items() if path.suffix == ".py"}
    coroutines = coroutine_names(trees.values())
    assert {name: found for name, tree in trees.items() if (found := begun_with_another(tree, coroutines))} == {}
    planted = ast.parse(
        "async def settle(): pass\n"
        "def one(self): self.host.spawn(self.guarded(self.settle()))\n"
        "def two(self, work: Callable[..., Coroutine[Any, Any, None]]): self.spawn(self._work('x', work=work()))\n"
        "def three(self): self.host.spawn(self.guarded(self.settle))"
    )
    found = begun_with_another(planted, coroutine_names([planted]))
    assert found == ["self.guarded(self.settle())", "self._work('x', work=work())"]


TESTS = {path: path.relative_to(Path(__file__).parent) for path in Path(__file__).parent.rglob("*.py")}
FOLDERS = {place.parts[0].removesuffix(".py") for place in TESTS.values()}


def strangers(place: Path, source: str) -> list[str]:
    """Return what a file of the tests imports that is neither the harness nor a helper of its own folder."""
    found = {name for name, _ in imports(ast.parse(source), ".".join(place.parent.parts))}
    helpers = {name for name in found if name.split(".")[0] in FOLDERS - {"harness", "pages"}}
    tests = {name for name in helpers if re.search(r"(^|\.)(test_\w+|conftest)(\.|$)", name)}
    return sorted(tests | {name for name in helpers if name.split(".")[0] != place.parts[0]})


def test_tests_import_the_harness_and_their_own_folder() -> None:
    """Never another test file, a conftest, or a helper of another folder: what two folders need is in tests/harness."""
    assert {
        str(place): found for path, place in TESTS.items() if (found := strangers(place, path.read_text("utf-8")))
    } == {}
    planted = (
        "from .conftest import staged\nfrom client import data\nfrom . import test_talk\nfrom harness.logs import Log"
    )
    assert strangers(Path("service/test_x.py"), planted) == [
        "client.data",
        "service.conftest.staged",
        "service.test_talk",
    ]
