#!/usr/bin/env bash
# Build, test and measure on a machine with an NVIDIA GPU; it needs no network. About 15 minutes, 25 at most.
#
#   tools/gpu_check.sh                     all stages: environment build device tests engines benchmark
#   tools/gpu_check.sh build tests         some of them, where one call may not take so long; what is built stays
#   WHEELS=folder tools/gpu_check.sh       installs these wheels first, for what the machine lacks
#
# Needs a Python (PYTHON, default python3) with torch for CUDA, NumPy, pytest and safetensors; nvcc and a C++ compiler; pybind11,
# and scikit-build-core or else cmake alone. Writes benchmarks/results/<gpu>.json, and copies it and all logs to OUT where that is
# set. A stage that fails or runs out of its time is named and the next begins; the exit code is the number of failed stages.
# DEVICE=cpu tries the script itself where there is no GPU: CUDA tests skip, figures go to build/gpu-check and mean nothing.
set -u

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
WANTED="${PYTHON:-python3}"
PYTHON="$(command -v "$WANTED")" || { echo "gpu_check: there is no $WANTED: name a Python in PYTHON" >&2; exit 64; }
DEVICE="${DEVICE:-cuda}"
BUILD="$ROOT/build/gpu-check"
VENV="$BUILD/venv"
OWN="$VENV/bin/python"
LOGS="$BUILD/logs"
STAGES=(environment build device tests engines benchmark)
declare -A LIMITS=([environment]=90 [build]=360 [device]=60 [tests]=420 [engines]=90 [benchmark]=480) # seconds; 25 minutes together
TESTS=(ops diffusion/test_loop.py diffusion/test_execution.py engines/test_engine_conformance.py engines/test_tensorrt_network.py
  test_device_loop.py)

environment() {
  rm -rf "$VENV"
  "$PYTHON" -m venv --without-pip "$VENV" || return
  # The packages of $PYTHON, which may itself live in an environment that a further one does not look into.
  "$PYTHON" - "$("$OWN" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<'EOF' || return
import os
import sys

places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)]
with open(os.path.join(sys.argv[1], "beside.pth"), "w") as file:
    file.writelines(f"{path}\n" for path in dict.fromkeys(places))
EOF
  if [ -n "${WHEELS:-}" ]; then
    "$OWN" -m pip install -q --no-index --no-deps --ignore-installed "$WHEELS"/*.whl || return
  fi
  "$OWN" -c 'import sys, numpy, torch; print("Python", sys.version.split()[0], "NumPy", numpy.__version__, "torch", torch.__version__)'
}

build() {
  local cuda=OFF archs=""
  if [ "$DEVICE" = cuda ]; then
    cuda=ON
    archs="$("$OWN" -c 'import torch; print("{}{}".format(*torch.cuda.get_device_capability()))')" || return
  fi
  local options=("AIGC_EDGE_CUDA=$cuda" "AIGC_EDGE_CUDA_ARCHS=$archs" AIGC_EDGE_WERROR=OFF) # another compiler, other warnings
  cd "$ROOT" || return
  if "$OWN" -c 'import pip, scikit_build_core' 2>/dev/null; then
    local settings=()
    for option in "${options[@]}"; do settings+=(--config-settings="cmake.define.$option"); done
    local found=()
    if [ -n "${WHEELS:-}" ]; then found=(--find-links "$WHEELS"); fi
    "$OWN" -m pip install -q --no-build-isolation --no-index "${found[@]}" --no-deps --force-reinstall "${settings[@]}" .
    return
  fi
  echo "pip's build backend is not here: plain CMake"
  local site
  site="$("$OWN" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || return
  cmake -S . -B "$BUILD/cmake" -DAIGC_EDGE_PYTHON=ON -DPython_EXECUTABLE="$OWN" -DCMAKE_BUILD_TYPE=Release \
    -Dpybind11_DIR="$("$OWN" -m pybind11 --cmakedir)" "${options[@]/#/-D}" &&
    cmake --build "$BUILD/cmake" --parallel --target _core &&
    rm -rf "$site/aigc_edge" && cp -r aigc_edge "$site/" && cp "$BUILD"/cmake/_core*.so "$site/aigc_edge/"
}

device() {
  "$OWN" - <<'EOF'
import sys

import torch

import aigc_edge._core as core

reason = core.cuda_unavailable() or ("" if torch.cuda.is_available() else "torch has no CUDA")
if reason:
    sys.exit(f"kernels cannot run on a GPU: {reason}")
print(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0), "kernels for", core.cuda_architectures())
EOF
}

tests() {
  # From another folder: in the repository's root its aigc_edge/, without a native core, would stand before the installed one.
  "$OWN" -m pytest -q -rs -p no:cacheprovider --import-mode=importlib --junit-xml="$LOGS/tests.xml" "${TESTS[@]/#/$ROOT/tests/}"
}

engines() { # a bundle finished by the command that finishes one on any device, and images from its plans
  local where=() bundle="$BUILD/engines.aigc"
  if ! "$OWN" -c 'import sys; from aigc_edge.engines.plans.module import installed; sys.exit(not installed())'; then
    echo "neither tensorrt nor tensorrt_rtx is installed: no plans to build"
    return 0
  fi
  if [ "$DEVICE" = cpu ]; then where=(--target rtx-30); fi
  rm -rf "$bundle" && cp -r "$ROOT/tests/data/digits-tiny.aigc" "$bundle" || return
  "$OWN" -m aigc_edge.cli build "$bundle" "${where[@]}" --format fp32 --minutes 2 || return
  if [ "$DEVICE" = cpu ]; then return; fi
  "$OWN" -m aigc_edge.cli sample "$bundle" --engine tensorrt -n 16 -o "$LOGS/engines.png" || return
  "$OWN" - "$bundle" <<'EOF'
import importlib.util
import sys

import numpy as np

import aigc_edge

if importlib.util.find_spec("onnxruntime") is None:
    sys.exit(0)  # nothing to compare with
images = [aigc_edge.open(sys.argv[1], engine=name).sample(16, seed=0, classes=[3] * 16) for name in ("tensorrt", "onnxruntime")]
error = np.mean((images[0].astype(float) - images[1].astype(float)) ** 2)
psnr = 10 * np.log10(255**2 / max(error, 1e-12))
print(f"tensorrt against onnxruntime from the same noise: {psnr:.1f} dB")
sys.exit("below 30 dB, which TF32 does not explain" if psnr < 30 else 0)
EOF
}

benchmark() {
  local quick=() result
  if [ "$DEVICE" = cpu ]; then
    quick=(--quick --parts ceilings,steps,bandwidth,normals)
    result="$BUILD/cpu.json"
  else
    result="$ROOT/benchmarks/results/$("$OWN" "$ROOT/benchmarks/gpu.py" --slug).json" || return
  fi
  "$OWN" "$ROOT/benchmarks/gpu.py" --device "$DEVICE" "${quick[@]}" --out "$result"
  local status=$?
  echo "figures: $result"
  if [ -n "${OUT:-}" ]; then cp "$result" "$OUT/"; fi
  return $status
}

main() { # read as a whole before it runs: the file may change meanwhile
  if [ "${1:-}" = --stage ]; then # a stage in a process of its own, which a time limit can end
    export PATH="$VENV/bin:$(dirname "$PYTHON"):$PATH"
    mkdir -p "$BUILD/empty" && cd "$BUILD/empty" && "$2"
    exit
  fi

  if [ $# -eq 0 ]; then set -- "${STAGES[@]}"; fi
  for stage in "$@"; do
    if [ -z "${LIMITS[$stage]:-}" ]; then
      echo "gpu_check: there is no stage '$stage': choose of ${STAGES[*]}" >&2
      exit 64
    fi
  done
  if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "gpu_check: $PYTHON has no torch that finds a GPU: name another Python in PYTHON, or try the script with DEVICE=cpu" >&2
    exit 64
  fi
  mkdir -p "$LOGS"
  local summary=() failed=0 stage started status verdict
  for stage in "$@"; do
    if [ "$DEVICE" = cpu ] && [ "$stage" = device ]; then continue; fi
    echo "== $stage (at most ${LIMITS[$stage]} s)"
    started=$SECONDS
    timeout --kill-after=10 "${LIMITS[$stage]}" bash "${BASH_SOURCE[0]}" --stage "$stage" 2>&1 | tee "$LOGS/$stage.log"
    status=${PIPESTATUS[0]}
    verdict=passed
    if [ "$status" -ne 0 ]; then
      verdict="FAILED (exit code $status)"
      if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then verdict="FAILED (longer than ${LIMITS[$stage]} s)"; fi
      failed=$((failed + 1))
    fi
    summary+=("$stage: $verdict, $((SECONDS - started)) s")
  done
  if [ -n "${OUT:-}" ]; then cp "$LOGS"/* "$OUT/"; fi
  echo "== summary"
  printf '%s\n' "${summary[@]}"
  exit "$failed"
}

main "$@"
