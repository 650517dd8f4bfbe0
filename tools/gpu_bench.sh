#!/usr/bin/env bash
# Nine benchmarks on an accelerator, in three calls of under nine minutes: tools/gpu_bench.sh 1|2|3
#
# Leaves a JSON file for each in $OUT. A benchmark that fails or takes too long does not lose the
# others, but leaves no file; the exit code is then 1. Compiled programs are kept between the calls.
# TINY=1 only shows that everything runs, on any machine, and without $OUT writes to a new folder
# in $TMPDIR. PyTorch as tools/peer.py finds it.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
out=${OUT:-}
if [[ ! $out ]]; then
  out=reports/performance/gpu
  [[ ${TINY:-} ]] && { out=$(mktemp -d) || exit 2; }
fi
export PYTHONPATH="$PWD:$PWD/tools${PYTHONPATH:+:$PYTHONPATH}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
failed=()

bench() { # seconds, name of the file, flags
  local limit=$1 name=$2
  shift 2
  [[ ${TINY:-} ]] && set -- "$1" --scale tiny
  rm -f "$out/$name.json"
  echo "== $name: $* --out $out/$name.json" >&2
  timeout "$limit" "$python" tools/bench.py "$@" --out "$out/$name.json" ||
    failed+=("$name")
}

case ${1:-} in
  1)
    bench 60 B0 B0
    bench 190 B1 B1 --bases respsann,waveresnet,sgrpsann,transformer
    bench 150 B1-recurrent B1 --bases groundthink,rwkv6,mamba2
    bench 130 B7 B7
    ;;
  2)
    bench 190 B2 B2
    bench 150 B3 B3
    bench 190 B8 B8 --configs S
    ;;
  3)
    bench 130 B4 B4 --lengths 1024,4096,8192
    bench 130 B13 B13 --prompts 96
    bench 80 B13-long B13 --prompts 1024 --batches 8,64
    bench 100 B13-large B13 --config L --batches 1 --prompts 96
    bench 90 B9 B9
    ;;
  *)
    echo "usage: tools/gpu_bench.sh 1|2|3" >&2
    exit 2
    ;;
esac

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
