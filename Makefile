# `make demo` and `make test` do all their own set-up; nothing but Python 3.10-3.12 and a C++ compiler is needed.
VENV ?= .venv
BIN := $(VENV)/bin
# The first Python that is there, works and has a fitting version.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: demo test env

demo: env
	"$(BIN)/python" -m mmscale.demo

test: env
	"$(BIN)/ruff" check .
	"$(BIN)/python" -m pytest

env:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) tools/bootstrap.py --venv "$(VENV)"
