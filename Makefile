# Two commands do everything, set-up included:
#   make quickstart   the main job, end to end
#   make test         all tests
#
# PYTHON        the interpreter .venv is made with
# TORCH         the torch that is installed
# TORCH_INDEX   where it comes from: PyTorch's CPU builds, so that nobody without a GPU downloads CUDA.
#               With an NVIDIA GPU: make quickstart TORCH_INDEX= (empty: pip's default index)
# JOBS          processes that run tests at the same time: at most the processors
PYTHON ?= python3
JOBS ?= 2
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find cmake csrc hybridret -type f -not -name '*.pyc')

.PHONY: quickstart test lint format docs benchmark benchmark-mkl wheel fuzz sanitize clean

quickstart: $(VENV)/.installed
	$(BIN)/hybridret quickstart --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc tests benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cu')

# The pages of docs/ and the reference, in docs/_build/index.html.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --quiet docs docs/_build

benchmark: $(VENV)/.installed-dev requirements-benchmark.txt
	$(BIN)/python -m pip install --quiet -r requirements-benchmark.txt
	$(BIN)/python -m pytest benchmarks

# On an AMD processor torch's MKL takes slower code than on an Intel one of the same instructions. This
# tells it otherwise: what remains of a gain over torch is ours.
benchmark-mkl: $(VENV)/.installed-dev
	echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | $(CC) -shared -fPIC -x c - -o $(VENV)/intel.so
	LD_PRELOAD=$(CURDIR)/$(VENV)/intel.so $(BIN)/python -m pytest benchmarks/test_loss.py

# Files that a reader answers with anything but an error of ours.
MINUTES ?= 5
fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES)

# The engine and the extension under GCC's sanitizers of memory, undefined behaviour and threads.
sanitize: $(VENV)/.installed-dev
	JOBS=$(JOBS) tests/sanitize.sh

# With CUDA kernels for all GPUs: an isolated build fetches nvcc.
wheel: $(VENV)/.installed-dev
	rm -rf dist && HYBRIDRET_CUDA=$${HYBRIDRET_CUDA:-on} $(BIN)/python -m build --wheel --outdir dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir wheelhouse dist/*.whl

clean:
	rm -rf $(VENV) build dist wheelhouse quickstart docs/_build docs/_results

# An extra index, not the only one: a build named +cpu is preferred wherever it is found, so a mirror
# that holds one will do. What torch depends on comes from the default index with the package.
$(VENV)/.torch:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'hybridret needs Python 3.11 or newer, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-deps $(addprefix --extra-index-url ,$(TORCH_INDEX)) "$(TORCH)"
	touch $@

# Editable, because Python started in this folder finds the sources before any other copy.
$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
