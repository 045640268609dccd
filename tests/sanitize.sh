#!/usr/bin/env bash
# The engine's C++ tests, and the extension under the tests of loss, scorer and index, with GCC's
# sanitizers: tests/sanitize.sh [address] [thread]. Builds in build/sanitize.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$PWD/.venv/bin/python"
export PATH="$PWD/.venv/bin:$PATH"

[ $# -gt 0 ] || set -- address thread
for sanitizer in "$@"; do
  flags="-fsanitize=$sanitizer -fno-omit-frame-pointer -g"
  if [ "$sanitizer" = address ]; then flags="$flags -fsanitize=undefined -fno-sanitize-recover=all"; fi
  build="build/sanitize/$sanitizer"
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=g++ \
    -DCMAKE_CXX_FLAGS="$flags" -DHYBRIDRET_NATIVE_TESTS=ON -DHYBRIDRET_PYTHON=ON -DHYBRIDRET_CUDA=off \
    -DSKBUILD_PROJECT_VERSION=0 -DSKBUILD_PROJECT_VERSION_FULL=0.2.0 -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > /dev/null
  cmake --build "$build" --parallel "${JOBS:-2}" > /dev/null
  echo "== $sanitizer: the engine's tests"
  "$build/native_tests"

  # A copy of the package with this extension; an environment without the editable installation.
  rm -rf "$build/python" "$build/venv"
  mkdir -p "$build/python"
  cp -r hybridret "$build/python/hybridret"
  cp "$build"/_native*.so "$build/python/hybridret/"
  "$python" -m venv --without-pip "$build/venv"
  "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    > "$("$build/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all.pth"
  # The C++ library with it: Python loads it late, and what it throws is to be seen.
  library="$(g++ -print-file-name="lib${sanitizer:0:1}san.so") $(g++ -print-file-name=libstdc++.so)"
  echo "== $sanitizer: the extension"
  report="$build/report"
  rm -f "$report".*
  # The safe path: not the sources of this folder, which have no extension. Without the test of
  # how much memory is taken: a sanitizer takes more.
  export HYPOTHESIS_PROFILE=sanitize PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
  asan="detect_leaks=0 log_path=$report"
  tsan="halt_on_error=1 ignore_noninstrumented_modules=1 die_after_fork=0 log_path=$report"
  tsan="$tsan suppressions=$PWD/tests/thread_sanitizer.txt"
  LD_PRELOAD="$library" PYTHONPATH="$PWD/$build/python" ASAN_OPTIONS="$asan" TSAN_OPTIONS="$tsan" \
    "$build/venv/bin/python" -m pytest -q -p no:cacheprovider --durations=0 --durations-min=60 \
    --deselect tests/test_ranking.py::test_the_best_of_equal_documents_take_little_memory \
    tests/test_losses.py tests/test_ranking.py tests/test_graph.py tests/test_index.py tests/test_filters.py || failed=1
  for file in "$report".*; do  # also of a process that a test started
    if [ -e "$file" ]; then cat "$file" >&2; failed=1; fi
  done
  [ -z "${failed:-}" ]
done
