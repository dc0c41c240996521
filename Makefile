# One-line verbs. Everything happens in .venv; the first run of any verb sets it up.
PYTHON ?= python3
VENV := .venv
BENCH ?= --quick
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
SOURCES := $(wildcard src/lsps2fast/*.pyx src/lsps2fast/*.pxd src/lsps2fast/*.h plugin/lsps2fast_plugin/cln/*.pyx plugin/lsps2fast_plugin/cln/*.pxd) setup.py pyproject.toml
STUBS := $(patsubst src.%,%,$(patsubst plugin.%,%,$(subst /,.,$(basename $(wildcard src/lsps2fast/*.pyi plugin/lsps2fast_plugin/cln/*.pyi)))))

.DEFAULT_GOAL := help
.PHONY: help machine api audit bench build compare conformance count crash demo dist docs figures test quick interop lock pages pure real scale simulate simulate-mutants campaign tried site ha fleet lint types table wheels clean

##@ Every day
help: ## show these verbs
	@awk -F':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

machine: ## set this Debian or Ubuntu up for all of the below, real nodes included; MACHINE=--dry-run only tells
	@$(PYTHON) release/machine.py $(MACHINE)

$(VENV)/tools: release/lock/dev.txt
	@echo "== setting up $(VENV) (once; about a minute)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(INSTALL) -r release/lock/dev.txt
	@touch $@

$(VENV)/built: $(VENV)/tools $(SOURCES)
	@echo "== compiling the core and installing lsps2fast in $(VENV)"
	@LSPS2FAST_BUILD=compiled $(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[terminal,metrics,page,fleet]" \
		>$(VENV)/build.log 2>&1 || (cat $(VENV)/build.log; exit 1)
	@touch $@

build: $(VENV)/built ## compile the core and install both plugins in .venv

demo: $(VENV)/built ## both plugins on embedded nodes: sell JIT channels and prove the sums
	@$(VENV)/bin/lsps2fast demo && $(VENV)/bin/lsps2fast demo --reuse && $(VENV)/bin/lsps2fast demo --wake && $(VENV)/bin/lsps2fast demo --batch

test: $(VENV)/built ## all tests; the core compiled and interpreted
	@$(PY) -m pytest -q

quick: $(VENV)/built ## tests for the edit loop: no processes, nothing slow
	@$(PY) -m pytest -q -m "not slow and not process" --hypothesis-profile=quick

##@ Try to lose money
crash: $(VENV)/built ## kill the plugin and the node at every point of a sale and count the money
	@cd tests && ../$(PY) -m model && ../$(PY) -m crash && ../$(PY) -m crash --processes --most 40 && ../$(PY) -m crash.client && ../$(PY) -m harness.fleet_histories

simulate: $(VENV)/built ## ten minutes of a town of honest and dishonest people on simulated time
	@$(VENV)/bin/lsps2fast simulate --seed 1 --seeds 9999 --minutes 10 --days 5 --people 40

campaign: $(VENV)/built ## a hundred seeds of thirty days each, on all cores (half an hour of CPU): .venv/campaign.json
	@$(VENV)/bin/lsps2fast simulate --seed 7001 --seeds 100 --days 30 --people 6 --json >$(VENV)/campaign.json

tried: $(VENV)/tools ## put what `make campaign` found on the page of what we promise
	@$(PY) tests/pages/tried.py $(VENV)/campaign.json

simulate-mutants: $(VENV)/built ## take each guard away and see the simulator find the loss
	@$(VENV)/bin/lsps2fast simulate --mutants

##@ Pages that are made from the code
pages: $(VENV)/built ## write the pages of docs/ that are made from the code
	@$(PY) -m lsps2fast_plugin.tools.pages

api: $(VENV)/built ## write docs/reference/python-api.md from the public API
	@$(PY) tests/pages/python_api.py

conformance: $(VENV)/tools ## write docs/conformance.md from the docstrings of the tests
	@$(PY) tests/pages/conformance.py

##@ On other cores, real nodes and machines
pure: $(VENV)/built ## the whole suite with the core interpreted
	@LSPS2FAST_PURE=1 $(PY) -m pytest -q

real: $(VENV)/built ## the scenarios on real bitcoind and lightningd (on PATH, or LSPS2FAST_CLN_DIR)
	@$(PY) -m pytest -q -m real tests

interop: $(VENV)/built ## our plugins beside ldk-node, lnd and lightningd's own (found, or built: minutes, once)
	@$(PY) -m pytest -q -m interop tests/interop

ha: $(VENV)/built ## the LSP's machine dies and another takes over, lightningd on PostgreSQL (real nodes)
	@$(PY) -m pytest -q -m ha tests/ha

fleet: $(VENV)/built ## several nodes that sell as one LSP, with PostgreSQL on this machine
	@$(PY) -m pytest -q -m fleet tests/service/fleet

compare: $(VENV)/built ## what the embedded node says beside a real one, scenario by scenario
	@cd tests && ../$(PY) -m real.report

##@ Style, types, the session machine
lint: $(VENV)/tools ## style of the code, spelling, words that pages do without
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/codespell *.md docs src plugin tests benchmarks release
	@$(PY) release/prose.py

types: $(VENV)/built ## types of both wings; the stubs against the compiled modules
	@$(VENV)/bin/mypy
	@$(PY) -m mypy.stubtest $(STUBS)

table: $(VENV)/built ## the session machine: grid and diagram
	@$(VENV)/bin/lsps2fast table

##@ Figures
bench: $(VENV)/built ## all benchmarks, each figure beside its target; longer with BENCH=
	@$(PY) -m pytest -q benchmarks --benchmark-max-time=0.5 --benchmark-json=$(VENV)/bench.json >$(VENV)/bench.log || (cat $(VENV)/bench.log; exit 1)
	@$(PY) benchmarks/show.py $(VENV)/bench.json
	@$(VENV)/bin/lsps2fast bench $(BENCH)

figures: $(VENV)/built ## measure the tables of docs/performance.md and fill it (FIGURES="sale flood" for some; real nodes)
	@$(PY) -m lsps2fast_plugin.tools.performance_page $(FIGURES)

scale: $(VENV)/built ## load on one node and growth of a fleet, laid into docs/explanation/scale.md; twenty minutes, with PostgreSQL
	@$(PY) benchmarks/fleet.py --plot docs/pictures/fleet-growth.svg --page docs/explanation/scale.md
	@$(PY) benchmarks/load.py --page docs/explanation/scale.md
	@$(PY) benchmarks/load_day.py --page docs/explanation/scale.md

count: $(VENV)/built ## instructions of the hot paths against the record, RPC calls and commits exactly
	@$(PY) benchmarks/count.py

##@ The site
docs: $(VENV)/tools ## build the site of docs/ in build/site; a warning is an error
	@$(INSTALL) -r release/lock/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

site: $(VENV)/tools ## build the site for each release and for main in build/site, with a menu of versions
	@$(INSTALL) -r release/lock/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(PY) release/site.py

##@ A release
dist: $(VENV)/tools ## write sdist, wheel of this machine and wheel for any machine to dist/: equal bytes from equal commits
	@rm -rf dist && mkdir dist && $(INSTALL) -r release/lock/dist.txt
	@set -e; export SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	git archive HEAD | tar -x -C $$work; $(PY) -m build --sdist --no-isolation --outdir $$work/out $$work >$$work/log 2>&1 || { cat $$work/log; exit 1; }; \
	sdist=$$(basename $$work/out/*.tar.gz); name=$${sdist%.tar.gz}; mkdir $$work/in; tar -xzf $$work/out/$$sdist -C $$work/in; \
	tar --sort=name --mtime=@$$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw --format=gnu -C $$work/in -c $$name | gzip -9n > dist/$$sdist; \
	for build in compiled pure; do rm -rf $$work/in && mkdir $$work/in && tar -xzf dist/$$sdist -C $$work/in; \
	CFLAGS="-O2 -DNDEBUG -g0" LDFLAGS=-Wl,-s LSPS2FAST_BUILD=$$build $(PY) -m build --wheel --no-isolation --outdir dist $$work/in/$$name >$$work/log 2>&1 || { cat $$work/log; exit 1; }; done
	@$(PY) -m twine check --strict dist/* && $(PY) -m check_wheel_contents dist/*.whl && sha256sum dist/*

wheels: dist ## the wheels of a release for Linux: each Python in PYTHONS, glibc and musl, x86_64 and aarch64, looked through and tried
	@$(INSTALL) -r release/lock/wheels.txt
	@rm -f dist/*-linux_*.whl
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(PY) release/wheels.py dist/*.tar.gz $(PYTHONS)
	@$(PY) -m twine check --strict dist/* && $(PY) -m check_wheel_contents dist/*.whl && (cd dist && sha256sum * > SHA256SUMS)

lock: $(VENV)/tools ## pin everything in release/lock, with hashes: the newest that pyproject.toml allows
	@$(PY) -m pip install --quiet --disable-pip-version-check --group lock
	@$(PY) release/lock.py

audit: $(VENV)/tools ## ask for the known faults of everything that is pinned
	@$(PY) -m pip install --quiet --disable-pip-version-check --group lock
	@$(PY) release/lock.py audit

##@ Clean up
clean: ## remove everything that was built
	@rm -rf $(VENV) build dist src/*.egg-info plugin/*.egg-info
	@find . -name '__pycache__' -prune -exec rm -rf {} + ; find src plugin -name '*.so' -delete -o -name '*.c' -delete
