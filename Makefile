# The two commands of the README, and shortcuts for developers.
#
#   make demo         generate shapes, train, evaluate and draw detections of held-out images: runs/demo/
#   make test         all tests
#   make test-fast    tests without training, processes and network (under 3 minutes)
#   make lint         ruff, mypy, clang-format, shellcheck, hadolint
#   make test-image   build the image and run it as SageMaker does; needs root and the programs of tests/image/engine.py
#   make docs         regenerate docs/configuration.md
#
# All of them set up .venv and are safe to repeat. PYTHON=python3.11 chooses the interpreter of a new .venv.

VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TEST_WORKERS ?= 2
PACKAGING := constraints.txt pyproject.toml $(wildcard setup.py)

.PHONY: demo test test-fast test-image distributed lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/frcnn make-shapes $(DEMO)/data
	$(BIN)/frcnn train --config configs/shapes_r18_fpn.yaml data.root=$(DEMO)/data output=$(DEMO)
	$(BIN)/frcnn evaluate --model $(DEMO)/model --data $(DEMO)/data --split validation
	$(BIN)/frcnn predict $(DEMO)/data/val --model $(DEMO)/model --out $(DEMO)/detections
	@echo "Model and metrics: $(DEMO)/model. Images with detections: $(DEMO)/detections."

test: $(VENV)/.installed-test distributed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-image: $(VENV)/.installed-test
	FRCNN_TEST_THE_IMAGE=1 $(BIN)/python -m pytest tests/image --durations=0

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@git ls-files -- '*.h' '*.cc' '*.cu' | xargs -r $(BIN)/clang-format --dry-run -Werror
	@git ls-files -- '*.sh' .ci/run | xargs -r $(BIN)/shellcheck
	@$(BIN)/hadolint Dockerfile.frcnn

# For tests with several processes: system packages if they may be installed, Horovod from a wheel that is built once per
# machine (ten minutes), and SageMaker's training toolkit.
distributed: $(VENV)/.installed-test
	@if scripts/install_system_packages.sh distributed serve; then \
	  PYTHON=$(BIN)/python scripts/build_horovod.sh --install && $(BIN)/pip install --quiet -c constraints.txt -e '.[container]'; \
	else echo "Without these packages the tests that need several processes or nginx are skipped."; fi

docs: $(VENV)/.installed
	$(BIN)/python tools/config_reference.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# pip is installed last into a virtual environment, so its presence means that the environment is complete.
$(BIN)/pip:
	@set -e; \
	usable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; \
	chosen=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.12 python3.11 python3.10); do \
	  if "$$candidate" -c "$$usable" 2>/dev/null; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  found=$$("$(or $(PYTHON),python3)" --version 2>/dev/null) || found="not a working Python"; \
	  echo "frcnn needs Python 3.10, 3.11 or 3.12; $(or $(PYTHON),python3) is $$found." \
	    "Install one, or name it: PYTHON=/path/to/python3.11 make" >&2; exit 1; \
	fi; \
	if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$chosen has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv --clear $(VENV)

$(VENV)/.installed: $(PACKAGING) | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[serve,sagemaker]'
	@touch $@

$(VENV)/.installed-test: $(PACKAGING) | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed
