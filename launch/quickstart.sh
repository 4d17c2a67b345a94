#!/usr/bin/env bash
# From raw text to a score: prepare, pretrain, finetune, evaluate, on the sample data of this repository.
# usage: launch/quickstart.sh [FOLDER]     (default runs/quickstart; run again, it goes on where it stopped)
set -euo pipefail
case "${1:-}" in
    "" | /*) out="${1:-runs/quickstart}" ;;
    *) out="$PWD/$1" ;;
esac
cd "$(dirname "$0")/.."
. launch/environment.sh ""

mkdir -p "$out"
JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$(cd "$out" && pwd)/compiled}"
export JAX_COMPILATION_CACHE_DIR

step() { printf '\n== %s\n' "$*"; "$@"; }

[ -f "$out/data/meta.json" ] ||
    step bertjax prepare --corpus sample_data/novels.txt.gz sample_data/messages.txt.gz \
        --vocab-size 4096 --held-out 0.05 --out "$out/data"
step bertjax pretrain configs/quickstart.py --data "$out/data" --out "$out/pretrained"
for encoder in pretrained random; do
    step bertjax finetune configs/quickstart_spam.py --task sms_spam --from "$out/pretrained" --encoder "$encoder" \
        --data sample_data --out "$out/spam-$encoder"
done
step bertjax evaluate "$out/spam-pretrained" --data sample_data

echo
bertjax report "$out/pretrained" "$out/spam-pretrained" "$out/spam-random" --out "$out/report.txt"
echo "Next: bertjax predict $out/spam-pretrained --input YOUR_TEXTS.tsv --out predictions.tsv   (PATH: .venv/bin)"
