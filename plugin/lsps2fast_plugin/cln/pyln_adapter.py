"""Everything rare, through pyln-client by public means only (cln:W13): methods, other hooks, notifications."""

from __future__ import annotations

import abc
import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from lsps2fast import _hook as hook
from lsps2fast.errors import ConfigError, Lsps2Error, NodeError, PeerError
from lsps2fast_plugin.cln import lenient_json
from lsps2fast_plugin.cln.inbox import peer_of
from lsps2fast_plugin.cln.pyln_client import MethodType, Plugin, PluginLogHandler, Request, RequestState, RpcException

TEMPORARY_NODE_FAILURE = "2002"
INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603

# The answers that harm least when a hook of ours breaks. An error or null would abort lightningd (cln:H9).
FALLBACKS = {
    "htlc_accepted": {"result": "fail", "failure_message": TEMPORARY_NODE_FAILURE},
    "openchannel": {"result": "reject", "error_message": "internal error of the plugin"},
    "openchannel2": {"result": "reject", "error_message": "internal error of the plugin"},
}
CONTINUE = {"result": "continue"}

Params = dict[str, Any]


class MethodError(Exception):
    """What a method of ours answers: a code, a sentence, and data for a program; no traceback."""

    def __init__(self, message: str, code: int, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class _OneFrame:
    """What `Plugin.run` reads: a stream that ends after one frame."""

    def __init__(self, frame: bytes) -> None:
        self.buffer = (frame,)


class _Out:
    """What pyln-client writes to: whole frames, into the lock of stdout."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.buffer = self
        self.write = write

    def flush(self) -> None:
        """Nothing is kept back."""


class PylnAdapter(abc.ABC):
    """What a plugin registers, and the dispatch of single frames to it."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self._signatures: dict[str, inspect.Signature] = {}
        self._hooks: dict[str, Callable[..., Params]] = {}
        self._topics: dict[str, Callable[..., None]] = {}
        self._unawaited: Callable[[str], bool] = _nobody
        self._check: Callable[[str, Params], Coroutine[Any, Any, None]] | None = None
        plugin.stdout = _Out(self.write)
        for handler in [each for each in logging.getLogger().handlers if isinstance(each, PluginLogHandler)]:
            logging.getLogger().removeHandler(handler)  # ours says the same, with the levels that were meant
        # lightningd sends htlc_accepted only to those who ask for it; the lane takes every call before pyln would.
        plugin.add_hook("htlc_accepted", _never, background=True)

    @abc.abstractmethod
    def write(self, whole_frames: bytes) -> None:
        """Write whole frames to lightningd; from any thread."""

    @abc.abstractmethod
    def log(self, text: str, level: str = "info") -> None:
        """Log through lightningd; from any thread."""

    @abc.abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine on the loop, by itself."""

    # ---- what the owner registers, before run()

    def ignore_messages(self, unawaited: Callable[[str], bool]) -> None:
        """Let messages of peers go unread for which `unawaited(peer_id)` says so: a peer decides how many we get."""
        self._unawaited = unawaited

    def method(self, name: str, work: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        """Declare an RPC method. The coroutine runs on the loop; its parameters make the usage, its docstring the help.

        It may raise RpcException (code kept) or an error of lsps2fast; anything else is logged and becomes -32603.
        """

        def begin(request: Request, *args: Any, **kwargs: Any) -> None:
            self.spawn(self._work(name, request, lambda: work(*args, **kwargs)))

        signature = inspect.signature(work)
        self._signatures[name] = signature
        ours = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        # `request` first: pyln-client would put it in the place of the first optional parameter that is left out.
        begin.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[ours, *signature.parameters.values()]
        )
        begin.__doc__ = inspect.getdoc(work) or ""
        self.plugin.add_method(name, begin, background=True, description=begin.__doc__)

    def checks(self, check: Callable[[str, Params], Coroutine[Any, Any, None]]) -> None:
        """Take lightningd's `check`: the coroutine `check(command, params)` raises what is wrong, and does no more."""
        self._check = check
        manifest = self.plugin.methods["getmanifest"]
        given = manifest.func

        def can_check(**params: Any) -> Params:
            return {**given(**params), "cancheck": True}

        manifest.func = can_check

    def hook(self, name: str, decide: Callable[..., Params], filters: list[int] | list[str] | None = None) -> None:
        """Declare a hook that is answered at once: `decide(**params)` returns the result.

        When it raises, or returns what lightningd would abort on, the hook is answered `continue` (openchannel:
        `reject`) and the error is logged. Does not go through pyln-client, which takes ten times as long: what is
        connected decides how often we are asked about his messages.
        """

        def call(**params: Any) -> Params:
            try:
                result = decide(**params)
                if result == CONTINUE:
                    return CONTINUE
                if not isinstance(result, dict) or not isinstance(result.get("result"), str):
                    raise ValueError(f"not an answer to a hook: {result!r:.200}")
                hook.answer(b"0", lenient_json.for_pyln(result).strip())
            except Exception:  # an unanswered or wrongly answered hook harms the whole node (cln:H9)
                fallback = FALLBACKS.get(name, CONTINUE)
                self.log(f"hook {name} failed, answered {fallback}\n{traceback.format_exc()}", "error")
                return fallback
            return result

        self._hooks[name] = call
        self.plugin.add_hook(name, _never, filters=filters)

    def slow_hook(
        self,
        name: str,
        decide: Callable[..., Coroutine[Any, Any, Params]],
        filters: list[int] | list[str] | None = None,
    ) -> None:
        """Declare a hook whose answer must be asked for: the coroutine runs on the loop and returns the result.

        When it raises, is cancelled, or returns what is no JSON object, the hook is answered as in `hook`.
        """

        def begin(request: Request, **params: Any) -> None:
            self.spawn(self._decide(name, request, lambda: decide(**params)))

        self.plugin.add_hook(name, begin, background=True, filters=filters)

    async def _decide(self, name: str, request: Request, decide: Callable[[], Awaitable[Params]]) -> None:
        result = FALLBACKS.get(name, CONTINUE)
        try:
            decided = await decide()
            hook.answer(b"0", lenient_json.for_pyln(decided).strip())
            result = decided
        except asyncio.CancelledError:  # we are stopping: lightningd goes on without us
            self.log(f"hook {name} is answered {result}: the plugin is stopping", "debug")
        except Exception:
            self.log(f"hook {name} failed, answered {result}\n{traceback.format_exc()}", "error")
        self._respond(request, result)

    def _respond(self, request: Request, result: Any) -> None:
        """Answer without `Request.set_result`, which writes down the whole stack each time. Raises TypeError."""
        self.write(lenient_json.answer(request.id, result))
        request.state = RequestState.FINISHED

    def subscribe(self, topic: str, take: Callable[..., None]) -> None:
        """Declare a notification: `take(**params)` on the loop; what it raises is logged.

        Does not go through pyln-client, which would have the frame written and read once more: a sale has dozens.
        """

        def call(**params: Any) -> None:
            try:
                take(**params)
            except Exception:  # one bad notification must not stop the others
                self.log(f"notification {topic} failed\n{traceback.format_exc()}", "error")

        self._topics[topic] = call
        self.plugin.add_subscription(topic, call)

    def send(self, method: str, params: Params) -> None:
        """Notify lightningd. Raises TypeError for what JSON cannot hold.

        Who listens finds the members under the topic's name, and beside it as pyln-client has them.
        """
        named = params if method in params else {**params, method: params}
        self.write(lenient_json.notification(method, named))

    # ---- frames

    def _lets_go(self, frame: bytes, id_raw: bytes) -> bool:
        """Answer a peer's message that is not waited for, without reading it."""
        peer_id = peer_of(frame).decode()
        if not peer_id or not self._unawaited(peer_id):
            return False
        self.write(hook.answer_continue(id_raw))
        return True

    def _dispatch(self, frame: bytes, method: str, id_raw: bytes | None) -> None:
        if method == "custommsg" and id_raw is not None and self._lets_go(frame, id_raw):
            return
        try:
            call = lenient_json.parse(frame)
        except (ValueError, RecursionError) as error:
            self._refuse(method, id_raw, INVALID_PARAMS, f"cannot be read: {error}")
            return
        if method == "check" and id_raw is not None and self._check is not None:
            self.spawn(self._checked(id_raw, call.get("params"), self._check))
            return
        known = self.plugin.subscriptions if id_raw is None else self.plugin.methods
        if method not in known:
            self._refuse(method, id_raw, METHOD_NOT_FOUND, "is not known here")
        elif not isinstance(call.get("params"), dict | list):
            self._refuse(method, id_raw, INVALID_PARAMS, "has no parameters")
        elif id_raw is None and method in self._topics:
            self._topics[method](**(call["params"] if isinstance(call["params"], dict) else {}))
        elif id_raw is not None and method in self._hooks:
            self._decide_now(method, id_raw, call["params"])
        elif id_raw is not None and not lenient_json.survives_pyln(call, id_raw):
            self._refuse(method, id_raw, INVALID_PARAMS, "has an id that would not come back as it came")
        elif (wrong := self._wrong_parameters(method, call["params"])) is not None:
            self._refuse(method, id_raw, INVALID_PARAMS, wrong)
        else:
            self._run_pyln(call, method)

    def _decide_now(self, method: str, id_raw: bytes, params: Params | list[Any]) -> None:
        """Answer a hook that is decided at once; lightningd names its parameters, a list has nothing for us."""
        result = self._hooks[method](**(params if isinstance(params, dict) else {}))
        try:
            quick = hook.answer_continue(id_raw) if result == CONTINUE else None
            self.write(quick or hook.answer(id_raw, lenient_json.for_pyln(result).strip()))
        except ValueError as error:
            self.log(f"{method!r:.100} cannot be answered: {error}", "error")

    def _wrong_parameters(self, method: str, params: Params | list[Any]) -> str | None:
        """Return why a method of ours cannot take these; pyln-client would answer with a traceback."""
        signature = self._signatures.get(method)
        try:
            if signature is not None and isinstance(params, dict):
                signature.bind(**params)
            elif signature is not None:
                signature.bind(*params)
        except TypeError as error:
            return str(error)
        return None

    async def _checked(
        self, id_raw: bytes, given: object, check: Callable[[str, Params], Coroutine[Any, Any, None]]
    ) -> None:
        """Answer whether a method of ours would take these parameters."""
        code, why = INVALID_PARAMS, "check: command_to_check is missing"
        name, params = _to_check(given)
        try:
            wrong = self._wrong_parameters(name, params)
            if wrong is None and name in self.plugin.methods:
                await check(name, params if isinstance(params, dict) else self._named(name, params))
                why = ""
            elif name:
                why = wrong or f"{name} is not known here"
        except MethodError as error:
            code, why = error.code, str(error)
        except Lsps2Error as error:
            why = str(error)
        except Exception as error:
            self.log(f"check of {name} failed\n{traceback.format_exc()}", "error")
            code, why = INTERNAL_ERROR, f"{name}: internal error, see the log: {error!r}"
        result = lenient_json.for_pyln({"command_to_check": name}).strip()
        self.write(lenient_json.error_frame(id_raw, code, why) if why else hook.answer(id_raw, result))

    def _named(self, name: str, params: list[Any]) -> Params:
        signature = self._signatures.get(name)
        return {} if signature is None else dict(signature.bind(*params).arguments)

    def _run_pyln(self, call: Params, method: str) -> None:
        self.plugin.stdin = _OneFrame(lenient_json.for_pyln(call))
        try:
            self.plugin.run()
        except Exception:  # pyln answers for its handlers; what still comes out must not stop the next frame
            self.log(f"{method} failed in pyln-client\n{traceback.format_exc()}", "error")

    def _refuse(self, method: str, id_raw: bytes | None, code: int, why: str) -> None:
        """Answer what cannot be dispatched: a hook harmlessly, a method with an error, a notification not at all."""
        self.log(f"{method!r:.100} {why}", "debug" if id_raw is None else "warn")
        if id_raw is None:
            return
        known = self.plugin.methods.get(method)
        try:
            if known is not None and known.mtype is MethodType.HOOK:
                result = lenient_json.for_pyln(FALLBACKS.get(method, CONTINUE)).strip()
                self.write(hook.answer(id_raw, result))
            else:
                self.write(lenient_json.error_frame(id_raw, code, f"{method} {why}"))
        except ValueError as error:
            self.log(f"{method!r:.100} cannot even be refused: {error}", "error")

    async def _work(self, name: str, request: Request, work: Callable[[], Awaitable[Any]]) -> None:
        """Run a method of ours and answer it."""
        try:
            self._respond(request, await work())
            return
        except asyncio.CancelledError:
            refusal = MethodError(f"{name}: the plugin is stopping", INTERNAL_ERROR)
        except MethodError as error:
            refusal = error
        except RpcException as error:
            refusal = MethodError(error.message, error.code)
        except (PeerError, NodeError) as error:
            refusal = MethodError(str(error), error.code or INTERNAL_ERROR)
        except ConfigError as error:
            refusal = MethodError(str(error), INVALID_PARAMS)
        except Lsps2Error as error:
            refusal = MethodError(str(error), INTERNAL_ERROR)
        except Exception as error:  # also a result that is no JSON: the caller must hear something
            self.log(f"method {name} failed\n{traceback.format_exc()}", "error")
            refusal = MethodError(f"{name}: internal error, see the log: {error!r}", INTERNAL_ERROR)
        request.state = RequestState.FAILED
        self.write(lenient_json.refusal(request.id, refusal.code, str(refusal), refusal.data))


def _to_check(given: object) -> tuple[str, Params | list[Any]]:
    """Return the command and its parameters, as they come in the parameters of `check`."""
    if isinstance(given, list) and given:
        return str(given[0]), given[1:]
    if isinstance(given, dict) and "command_to_check" in given:
        return str(given["command_to_check"]), {key: each for key, each in given.items() if key != "command_to_check"}
    return "", {}


def _nobody(_: str) -> bool:
    return False


def _never(**_: Any) -> None:
    raise AssertionError("an htlc_accepted call reached pyln-client")
