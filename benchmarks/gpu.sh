#!/usr/bin/env bash
# Builds, tests and times the CUDA loss on a machine with a GPU: one call, no network. Its parts
# are cut off in time for ten minutes in all; what was measured by then is printed.
#
#   benchmarks/gpu.sh OUT
#
# Needs Python with torch, pybind11, scikit-build-core, cmake, ninja, pytest, pytest-benchmark and
# hypothesis, and nvcc 12.5 or newer. WHEELS (default: wheels) is a folder with hnswlib-0.8.0.tar.gz,
# and the wheels of the peers that are to be timed: liger-kernel, cut-cross-entropy, inf-cl,
# siglip-kernel. What is not there is left out and named.
# OUT/loss_cuda.md is the result, the other files in OUT are logs.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath "${1:?say where to write: benchmarks/gpu.sh OUT}")
WHEELS=${WHEELS:-wheels}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 HYBRIDRET_CUDA=on HYBRIDRET_CUDA_ARCHITECTURES=${ARCHITECTURES:-90a}

python3 -m venv --system-site-packages .gpu && . .gpu/bin/activate
if compgen -G "$WHEELS/*.whl" > /dev/null; then
  python -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
if [ -f "$WHEELS/hnswlib-0.8.0.tar.gz" ]; then
  tar -xzf "$WHEELS/hnswlib-0.8.0.tar.gz" -C .gpu
  export HNSWLIB_INCLUDE_DIR=$PWD/.gpu/hnswlib-0.8.0
fi
echo "== build"
time python -m pip install --no-build-isolation --no-deps --force-reinstall . > "$OUT/build.log" 2>&1 \
  || { tail -30 "$OUT/build.log"; exit 1; }

# Away from the sources, or Python would find those instead of what was built.
mkdir -p .gpu/run && cp -r tests benchmarks .gpu/run && cp pyproject.toml .gpu/run && cd .gpu/run
echo "== tests"
timeout 100 python -m pytest -q tests/test_cuda.py -k gpu 2>&1 | tee "$OUT/tests.log" | tail -25
tests=${PIPESTATUS[0]}
echo "== compute-sanitizer"
for tool in memcheck racecheck; do
  timeout 40 compute-sanitizer --tool $tool --error-exitcode 9 --launch-timeout 60 \
    python -m pytest -q tests/test_cuda.py -k "gpu and (ragged or empty) and not float32" \
    > "$OUT/$tool.log" 2>&1
  echo "$tool: exit $?, $(grep -E 'ERROR SUMMARY|passed|failed' "$OUT/$tool.log" | tail -2 | tr '\n' ' ')"
done | tee "$OUT/sanitizer.txt"
echo "== benchmark"
timeout -s INT -k 20 240 python -m pytest -q benchmarks/test_loss_cuda.py --benchmark-disable-gc 2>&1 \
  | tee "$OUT/benchmark.log" | grep -v "^benchmarks/\|^$" | tail -150

{
  echo "# The loss on a GPU: a run of $(date -u '+%-d %B %Y')"
  echo
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  python -c "import sys, torch; print(f'Python {sys.version.split()[0]}, torch {torch.__version__}')"
  nvcc --version | tail -2 | head -1
  python -m pip list 2> /dev/null | grep -iE "^(liger|cut.cross|inf.cl|siglip|sentence-trans|triton)"
  echo
  echo "Command: \`benchmarks/gpu.sh OUT\`. Tests: exit $tests, $(tail -1 "$OUT/tests.log")."
  sed 's/^/Sanitizer, /' "$OUT/sanitizer.txt"
  echo
  echo '```'
  sed -n '/processors, /,$p' "$OUT/benchmark.log"
  echo '```'
} > "$OUT/loss_cuda.md"
exit "$tests"
