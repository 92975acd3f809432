# `make serve` and `make test` are all a fresh machine needs: Python 3.11+ (with venv), make and git.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=
# Without a terminal of its own pip's progress bars only fill logs.
PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve repl test corpus check format bench browser clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/serve-ready ## serve the page on http://127.0.0.1:7860 (ARGS="--port 7861 ...")
	$(RUN) -m app serve $(ARGS)

repl: $(VENV)/serve-ready ## the dw> prompt
	$(RUN) -m app repl $(ARGS)

# Two files of tests side by side, but for a browser's: those wait for what a person would wait for.
test: $(VENV)/test-ready browser ## every test, the browser's too (ARGS="-k name ...": some)
ifeq ($(ARGS),)
	$(RUN) -m pytest -n 2 --dist loadfile -m "not browser"
	$(RUN) -m pytest -m browser
else
	$(RUN) -m pytest $(ARGS)
endif

corpus: $(VENV)/test-ready ## run every document there is and write down what runs (ARGS=name: some)
	$(RUN) -m tests.corpus $(ARGS)

check: $(VENV)/test-ready ## lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/test-ready ## put the code into house format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/serve-ready ## the figures the README quotes (ARGS="overhead startup": some)
	@for name in $(or $(ARGS),overhead startup engine loading out_of_memory soak); do \
		echo && echo "python -m benchmarks.$$name" && $(RUN) -m benchmarks.$$name || exit 1; done

clean: ## remove the environment and caches; outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing. Add it with: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing. Add it with: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/serve-ready: requirements.txt $(VENV)/created
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/test-ready: requirements-dev.txt $(VENV)/serve-ready
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# Debian's Chromium drives the page's tests. It is installed where that can be done without asking
# for a password; elsewhere the command is named, and in CI its absence is a failure.
browser:
	@command -v chromium >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	elif command -v apt-get >/dev/null 2>&1 && sudo -n true 2>/dev/null; then \
		sudo -n apt-get update -qq && sudo -n apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "Chromium is missing, so the browser tests cannot run. Add it with: sudo apt-get install chromium"; \
		test -z "$$CI"; \
	fi
