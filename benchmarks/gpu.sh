#!/usr/bin/env bash
# The benchmarks of one GPU in slices of under ten minutes each; no network is needed.
#
#     benchmarks/gpu.sh                 all slices in order, three hours at most; then docs/benchmarks/gpu.md is written anew
#     benchmarks/gpu.sh 177m lengths    these; train-1, train-2, ... go on where the one before stopped
#     benchmarks/gpu.sh --small         all of it at tiny sizes on a CPU: docs/benchmarks/gpu-small.md
#     benchmarks/gpu.sh --page          only the page, from the results that are there
#
# RESULTS=folder   where each slice's Markdown goes (default: build/benchmarks/gpu); PYTHON=interpreter
# Transformer Engine is taken from .te/ where that is there (`. .te/unpack_te.sh`), litgpt from the interpreter's packages.
# Not here: what a slice measures and prints (throughput.py, memory.py, fp8.py, scaling.py, elite.py).
set -u && cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p build/package && ln -sfn ../.. build/package/yxanul # the checkout itself is what is measured
export PYTHONPATH="$PWD/build/package${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
[ -f .te/unpack_te.sh ] && . .te/unpack_te.sh

FULL='
112m: throughput.py --presets elite-112m --peers llama bare
177m: throughput.py --presets yxanul-177m --peers llama llama-equal bare
197m: throughput.py --presets yxanul-197m --peers llama bare
270m: throughput.py --presets yxanul-270m --peers llama bare
gpt2: throughput.py --presets gpt2 --lengths 1024 --peers gpt2 litgpt llama bare
litgpt-177m: throughput.py --presets yxanul-177m --peers litgpt llama
compile: throughput.py --presets yxanul-177m --compile none layers model
precision: throughput.py --presets yxanul-177m --precision bf16 fp8 te
attention: throughput.py --presets elite-112m --attention sdpa flash_attention_2 flash_attention_3 flash_attention_4
documents: throughput.py --presets elite-112m --documents --attention varlen flex_attention sdpa
4096: throughput.py --presets yxanul-177m --lengths 4096 --peers llama
memory: memory.py
fp8-products: fp8.py products --presets elite-112m yxanul-177m yxanul-270m
fp8-112m: fp8.py steps --presets elite-112m
fp8-177m: fp8.py steps --presets yxanul-177m
lengths: scaling.py lengths --preset yxanul-197m --turns 1
depth: scaling.py depth
vocabulary: scaling.py vocabulary processes
train-1: elite.py
train-2: elite.py
train-3: elite.py
'
SMALL='
throughput: throughput.py --small --peers llama llama-equal bare gpt2 litgpt
compile: throughput.py --small --compile layers --turns 1
precision: throughput.py --small --precision bf16 --turns 1
documents: throughput.py --small --documents --attention varlen flex_attention sdpa --turns 1
memory: memory.py --small
fp8-products: fp8.py products --small
fp8-steps: fp8.py steps --small
scaling: scaling.py lengths depth vocabulary processes --small --turns 1
train-1: elite.py --small
train-2: elite.py --small
'
SLICES=$FULL PAGE=docs/benchmarks/gpu.md KIND=gpu
if [ "${1-}" = --small ]; then
    SLICES=$SMALL PAGE=docs/benchmarks/gpu-small.md KIND=gpu-small
    rm -rf build/benchmarks/elite-small* build/benchmarks/gpu-small
    shift
fi
RESULTS=${RESULTS:-build/benchmarks/$KIND}
mkdir -p "$RESULTS"
names() { grep -v '^$' <<<"$SLICES" | cut -d: -f1; }
command_of() { grep "^$1: " <<<"$SLICES" | cut -d' ' -f2-; }

run_slice() {
    local words="$(command_of "$1")"
    echo "== $1: ${words:?no such slice; there are $(names | xargs)}" >&2
    timeout 590 "$PYTHON" benchmarks/$words >"$RESULTS/$1.part" && mv "$RESULTS/$1.part" "$RESULTS/$1.md" && return
    echo "slice $1 failed with exit code $?; what it printed is in $RESULTS/$1.part" >&2
    return 1
}

page() { # what stands above the first slice is written by hand
    sed '/<!-- slices -->/q' "$PAGE" >"$RESULTS/page"
    for name in $(names); do
        printf '\n<!-- %s -->\n' "$name"
        cat "$RESULTS/$name.md" 2>/dev/null || "$PYTHON" benchmarks/$(command_of "$name") --layout # "not measured"
    done >>"$RESULTS/page"
    mv "$RESULTS/page" "$PAGE"
    echo "$PAGE is written" >&2
}

[ "${1-}" != --page ] || { page && exit; }
failed=0
for name in ${*:-$(names)}; do
    run_slice "$name" || failed=1
done
[ $# != 0 ] || page
exit $failed
