# Every target makes its own .venv with what it needs; PYTHON chooses the interpreter.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo
# A run of the tests is spread over the cores; each process then computes with one thread.
WORKERS ?= auto
# "make test ISA=avx2" computes as on a processor without AVX-512, ISA=avx as on one without AVX2
# (OpenVINO needs AVX), THREADS=2 sums in another order: what is right must be right there too.
ISA_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
ISA_avx := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX
KERNELS = $(if $(ISA),$(or $(ISA_$(ISA)),$(error ISA: expected avx2 or avx, got $(ISA))))
THREADS ?= 1
# The versions that the tests were run with last, each with its hashes; LOCK= takes the newest.
LOCK ?= requirements-dev.txt

.PHONY: help demo test test-lowest test-newest check format docs bench dist smoke lock clean

help:
	@echo "make demo    train on made-up parts and look at what it finds (minutes)"
	@echo "make test    run all tests; with other kernels: ISA=avx2, ISA=avx, THREADS=2"
	@echo "make test-lowest   the same with the lowest versions of pyproject.toml (some GB more)"
	@echo "make test-newest   the same with the newest versions of all packages (some GB more)"
	@echo "make check   lint, formatting, types"
	@echo "make format  put the sources into shape"
	@echo "make docs    build the documentation into site/ (open site/index.html); its notebooks are run"
	@echo "make bench   train and score a real data set: make bench DATA=folder [ARGS='...']"
	@echo "make dist    build the wheel and the sdist into dist/"
	@echo "make smoke   try the wheel with each extra in fresh environments: make smoke [EXTRAS='none onnx']"
	@echo "make lock    look for versions anew for requirements-dev.txt: make lock [ARGS=--upgrade]"
	@echo "make clean   remove the virtual environment and what the tools left"

$(READY): pyproject.toml $(LOCK) $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
ifneq ($(LOCK),)
	# Of an earlier time; its metadata would fail the check.
	$(BIN)/pip uninstall --quiet --quiet --yes adeval
	$(BIN)/pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/pip check
else
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed \
		$(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
endif
	# Its metadata asks for a second opencv, which would overwrite the one that is there.
	$(BIN)/pip install --quiet --no-deps 'adeval==1.1.0'
	@touch $(READY)

$(DEMO): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[train]'
	@touch $(DEMO)

# What the tests need is there already, or only what the demo needs.
demo: $(if $(wildcard $(READY)),,$(DEMO))
	$(BIN)/destseg demo

test: $(READY)
	$(KERNELS) OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n $(WORKERS)

test-lowest:
	$(MAKE) test VENV=.venv-lowest LOCK= CONSTRAINTS=constraints-lowest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest LOCK=

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# DESTSEG_RUN_NOTEBOOKS=0 leaves out what the notebooks show, and is quicker.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python benchmarks/train_and_score.py $(DATA) $(ARGS)

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build

# Not in the tests: it takes its packages from an index, and with PyTorch some GB.
smoke: dist
	$(BIN)/python tests/smoke.py dist/*.whl $(EXTRAS)

# In an environment of its own, since only this needs uv.  What is in the file stays unless ARGS
# says --upgrade.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --extra dev $(ARGS) \
		--output-file requirements-dev.txt pyproject.toml
	rm -rf .venv-lock

clean:
	rm -rf site $(VENV) .venv-lowest .venv-newest dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
