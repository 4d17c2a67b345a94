"""Time and memory of loading a Hugging Face directory of BERT-base's size, ours and transformers'.

    python bench/hf_import.py --model HF_DIR [--peer PYTHON] [--runs 3] [--out bench/results]

HF_DIR is made once, of random weights; PYTHON has transformers and torch. Each measurement is a process of its own that
has imported its libraries before: seconds of wall clock and of CPU, and the peak of resident memory (VmHWM) over what
it was then, as a multiple of the size of model.safetensors. Of transformers each weight is read once: it maps the file
and reads nothing before. The table goes to OUT/hf-import.md, all figures to OUT/hf-import.json.
"""

import json
import subprocess
import sys
from pathlib import Path

import results

MAKE = """
import sys
from pathlib import Path
from bertjax.data.specials import BERT
from bertjax.data.wordpiece import WordPiece
from bertjax.hf.write import write
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.state import init_params
model = bert.PRESETS["base"]
tokenizer = WordPiece([*BERT, *(f"[unused{i}]" for i in range(model.vocab_size - len(BERT)))], lowercase=True)
params = init_params(mlm.Config().build(model), seed=0)
write(Path(sys.argv[1]), model=model, tokenizer=tokenizer, params=params, length=512, about={})
"""
LOAD = {
    "bertjax": """
import jax, bertjax
from bertjax import api
from bertjax.hf import read
jax.devices()
def load(path):
    model = api.load(path)
    jax.block_until_ready(model.params)
    return model
""",
    "transformers": """
import torch, transformers
from transformers import AutoTokenizer, BertForPreTraining
def load(path):
    model = BertForPreTraining.from_pretrained(path)
    for weights in model.parameters():
        weights.sum()
    return model, AutoTokenizer.from_pretrained(path)
""",
}
MEASURE = """
import gc, json, os, sys, time
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before, began, cpu = peak(), time.time(), time.process_time()
kept = load(sys.argv[1])
size = os.path.getsize(sys.argv[1] + "/model.safetensors")
print(json.dumps({"wall": time.time() - began, "cpu": time.process_time() - cpu,
                  "peak": (peak() - before) * 1024 / size}))
"""


def main() -> None:
    """Runs both in turn and writes a line for each program."""
    parser = results.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", type=results.python, default="")
    parser.add_argument("--runs", type=results.count, default=3)
    options = parser.parse_args()
    if not (options.model / "model.safetensors").is_file():
        subprocess.run([sys.executable, "-c", MAKE, options.model], check=True)
    programs = {"bertjax": sys.executable} | ({"transformers": options.peer} if options.peer else {})
    found: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(options.runs):
        for name, python in programs.items():
            output = subprocess.check_output([python, "-c", LOAD[name] + MEASURE, options.model])
            found[name].append(json.loads(output.splitlines()[-1]))
    rows = [
        (name, *(results.spread((run[key] for run in runs), 2) for key in ("wall", "cpu", "peak")))
        for name, runs in found.items()
    ]
    versions = {name: results.versions(python) for name, python in programs.items()}
    lines = results.table(("program", "s", "CPU-s", "peak, times model.safetensors"), rows)
    results.write(options.out, "hf-import", lines, {"runs": found}, versions)


if __name__ == "__main__":
    main()
