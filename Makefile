# Everything is set up in .venv by the first target that needs it; nothing else is asked of the machine
# than Python >= 3.11 and make.

PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test coverage lint bench bench-gpu clean
.DEFAULT_GOAL := demo

demo: .venv/ready  ## generate, train on two Ray workers, register, evaluate, serve, ask
	@$(BIN)/dlde demo

test: .venv/ready lint  ## everything that can be checked
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: .venv/ready  ## the same tests, slower, and the lines that none of them reaches
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready  ## speed, side by side with the libraries a user would pick instead
	@$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	@for script in $$(ls benchmarks/*.py | grep -v timing.py); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: .venv/ready  ## the steps that a GPU takes, against the same libraries
	@$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	@for script in 'fno_step.py --compiled' 'pinn_step.py --compiled' 'pinn_step.py --memory'; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script --device cuda || exit 1; done

clean:  ## removes the environment and caches; results under .dlde/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist

# torch first: where no GPU is found the CPU build (from wherever pip is told to look, else PyTorch's
# own index), because plain `torch` brings gigabytes of CUDA libraries.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv (once) ..."; began=$$(date +%s); \
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None' && \
	$(PYTHON) -m venv .venv && \
	if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then $(BIN)/pip install -q torch==$(TORCH); else \
	  $(BIN)/pip install -q torch==$(TORCH)+cpu 2>/dev/null || \
	  $(BIN)/pip install -q torch==$(TORCH)+cpu --extra-index-url $(TORCH_CPU_INDEX) 2>/dev/null || \
	  $(BIN)/pip install -q torch==$(TORCH); fi && \
	$(BIN)/pip install -q -c constraints.txt -e '.[test]' && \
	touch $@ && echo "Installed in $$(( $$(date +%s) - began )) s."
