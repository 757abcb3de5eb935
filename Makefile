# make demo: the page on port 7860 with the embedded family.
# make test: everything, in a browser too where there is one.  make lint: ruff.
# Any of them makes .venv first when it is missing; PYTHON says from which Python.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/python -m dogerm demo

test: .venv/tested .venv/browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON.")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

.venv/tested: .venv/installed tests/requirements.txt
	$(BIN)/pip install --disable-pip-version-check -q -r tests/requirements.txt
	@touch $@

# Without a browser its tests skip and say so; that is no reason to fail the others.
.venv/browser: .venv/installed
	@if command -v chromium >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk; } \
	  || echo 'Chromium could not be installed; the browser tests will skip.' >&2; \
	else \
	  echo 'No Chromium, and no way to install it; the browser tests will skip.' >&2; \
	fi
	@touch $@
