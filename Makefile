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

.PHONY: help demo test test-lowest check format docs bench clean

help:
	@echo "make demo    train on made-up parts and look at what it finds (minutes)"
	@echo "make test    run all tests; with other kernels: ISA=avx2, ISA=avx, THREADS=2"
	@echo "make test-lowest   the same with the lowest versions of pyproject.toml (some GB more)"
	@echo "make check   lint, formatting, types"
	@echo "make format  put the sources into shape"
	@echo "make docs    build the documentation into site/ (open site/index.html); its notebooks are run"
	@echo "make bench   train and score a real data set: make bench DATA=folder [ARGS='...']"
	@echo "make clean   remove the virtual environment and what the tools left"

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed \
		$(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
	# Its metadata asks for a second opencv, which would overwrite the one that is there.
	$(BIN)/pip install --quiet --no-deps 'adeval>=1.1'
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
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

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

clean:
	rm -rf site $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis
