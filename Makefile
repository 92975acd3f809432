# A fresh machine needs only Python 3.11+ (with venv), make and git for `make serve` and `make test`.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=
# Quiet: without a terminal, pip's progress bars fill the log.
PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve repl test corpus check format bench soak browser clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/serve-ready ## start the page on http://127.0.0.1:7860 (ARGS="--port 7861 ...")
	$(RUN) -m app serve $(ARGS)

repl: $(VENV)/serve-ready ## open the dw> prompt
	$(RUN) -m app repl $(ARGS)

# Runs two test files in parallel; browser tests run alone because they check waiting times.
test: $(VENV)/test-ready browser ## run all tests, browser tests included (ARGS="-k name ..." selects)
ifeq ($(ARGS),)
	$(RUN) -m pytest -n 2 --dist loadfile -m "not browser"
	$(RUN) -m pytest -m browser
else
	$(RUN) -m pytest $(ARGS)
endif

corpus: $(VENV)/test-ready ## run all documents and update docs/dialect-coverage.md (ARGS=name selects)
	$(RUN) -m tests.corpus $(ARGS)

check: $(VENV)/test-ready ## check lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/test-ready ## format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/serve-ready ## measure the README's figures (ARGS="overhead startup" selects)
	@for name in $(or $(ARGS),overhead startup engine loading loras slots out_of_memory soak growth); do \
		echo && echo "python -m benchmarks.$$name" && $(RUN) -m benchmarks.$$name || exit 1; done

soak: $(VENV)/test-ready ## long counts: 5,000 fuzzed calls, 50 killed servers, 300 runs (an hour)
	$(RUN) -m tests.fuzz
	$(RUN) -m tests.killing
	$(RUN) -m benchmarks.soak

clean: ## remove the environment and caches; keep outputs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing. Install it with: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing. Install it with: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/serve-ready: requirements.txt $(VENV)/created
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/test-ready: requirements-dev.txt $(VENV)/serve-ready
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# The browser tests use Debian's Chromium. It is installed if that needs no password; otherwise the
# command is printed, and in CI a missing Chromium is an error.
browser:
	@command -v chromium >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	elif command -v apt-get >/dev/null 2>&1 && sudo -n true 2>/dev/null; then \
		sudo -n apt-get update -qq && sudo -n apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "Chromium is missing, so the browser tests cannot run. Install it with: sudo apt-get install chromium"; \
		test -z "$$CI"; \
	fi
