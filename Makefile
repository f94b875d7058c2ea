# make study: set up, run the embedded study of all 20 placements, write its report.
# make test:  set up, lint, type-check, build the docs and test.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# uv, where it is on PATH, installs in seconds what pip installs in minutes, and shows how far it is. pip does it where
# there is no uv, or where uv fails because only pip is set up to reach this machine's packages.
UV := $(shell command -v uv 2>/dev/null)
# One line that says how far pip is, in a terminal; in a log, a line for every 50 packages. pip's status is kept.
define PIP_INSTALL
{ $(BIN)/python -u -m pip install --editable '.[dev]'; echo "status $$?"; } | awk -v tty="$$(test -t 2 && echo 1)" '\
  /^status /    { status = $$2 } \
  /^Collecting/ { n++; if (tty) printf "\r\033[K%d packages found, latest %s", n, $$2; else if (n % 50 == 0) print n " packages found"; fflush() } \
  /^Installing collected/ { printf "%s%d packages found; installing them takes another minute or two\n", (tty ? "\r\033[K" : ""), n; fflush() } \
  END { exit status }'
endef

.PHONY: setup study report test test-slow lint docs site notebooks check bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sdpet needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing sdpet and what it needs, about 250 packages, into .venv. The first time this takes a few minutes."
	@$(if $(UV),$(UV) pip install --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' ||) $(PIP_INSTALL)
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps --force-reinstall opencv-python-headless
	@touch $@

# The size of fleets is fixed, not measured, so that the last digits are those of docs/results/unet-placements.md.
study: setup
	$(BIN)/python train.py -m +sweeps=placement hydra.launcher.size=8
	$(BIN)/python -m analysis outputs/placement

report: setup
	$(BIN)/python -m analysis outputs/placement

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs: build/site/index.html, and the reports of its gallery. site: without these; any warning is an error.
docs: site
	PYTHONPATH=. $(BIN)/python docs/gallery.py build/site/gallery

site: setup
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet

# notebooks: run them and put copies with outputs into the docs.
notebooks: setup
	rm -rf docs/notebooks
	PYTHONWARNINGS=ignore $(BIN)/jupyter nbconvert --execute --to markdown --output-dir docs/notebooks notebooks/*.ipynb

test: lint site
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# The lab's gates: about 20 minutes on 2 cores the first time, for it runs the study with 5 seeds.
check: setup
	$(BIN)/python -m sdpet.lab.check

bench: setup
	$(BIN)/python bench/anova.py
	$(BIN)/python bench/fleet.py
	$(BIN)/python bench/evaluation.py
	$(BIN)/python bench/bookkeeping.py
	$(BIN)/python bench/gpu.py

clean:
	rm -rf .venv build outputs .pytest_cache .mypy_cache .ruff_cache

# A real Slurm (apt-get install slurm-wlm munge; as root) and a real Ray on this machine, with a node killed in each.
.PHONY: test-cluster
test-cluster: setup
	$(BIN)/python -m pip install --quiet --editable '.[dev,cluster]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/cluster/check.py

# On a machine with a network: wheels of what a CUDA machine with PyTorch and Lightning lacks, into build/gpu-wheels, for
# its version of Python (GPU_VERSION).
# On that machine, without a network: `make gpu` uses them and measures (at most 9 minutes; JSON files in GPU_OUT), and
# `make test-gpu` runs the tests that need a CUDA device. Nothing is installed into its Python (GPU_PYTHON).
GPU_PYTHON ?= python3
GPU_VERSION ?= 3.12
GPU_OUT ?= build/gpu
GPU_SITE := build/gpu-site
.PHONY: gpu-wheels gpu-site gpu test-gpu
gpu-wheels: setup
	$(BIN)/python bench/gpu_wheels.py lay build/gpu-wheels --python $(GPU_VERSION)

gpu-site:
	$(GPU_PYTHON) bench/gpu_wheels.py use build/gpu-wheels $(GPU_SITE)

gpu: gpu-site
	PYTHONPATH=$(GPU_SITE):. $(GPU_PYTHON) bench/gpu.py --out $(GPU_OUT)

test-gpu: gpu-site
	PYTHONPATH=$(GPU_SITE):. $(GPU_PYTHON) -m pytest -m gpu tests/gpu
