"""Time and memory of loading a Hugging Face directory of BERT-base's size, ours and transformers'.

    python bench/hf_import.py --out /tmp/base [--peer /path/to/python/with/transformers/and/torch]

The directory is made once, of random weights. Each measurement is a process of its own that has imported its
libraries before: seconds of wall clock and of CPU, and the peak of resident memory (VmHWM) over what it was then, as a
multiple of the size of model.safetensors.
"""

import argparse
import subprocess
import sys
from pathlib import Path

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
    return BertForPreTraining.from_pretrained(path), AutoTokenizer.from_pretrained(path)
""",
}
MEASURE = """
import gc, os, sys, time
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before, began, cpu = peak(), time.time(), time.process_time()
kept = load(sys.argv[1])
size = os.path.getsize(sys.argv[1] + "/model.safetensors")
print(f"{time.time() - began:.2f} s wall, {time.process_time() - cpu:.2f} s CPU, "
      f"{(peak() - before) * 1024 / size:.2f} x {size / 1e6:.0f} MB")
"""


def main() -> None:
    """Prints a line for each program and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--peer", default="")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if not (Path(options.out) / "model.safetensors").is_file():
        subprocess.run([sys.executable, "-c", MAKE, options.out], check=True)
    programs = {"bertjax": sys.executable} | ({"transformers": options.peer} if options.peer else {})
    for _ in range(options.runs):
        for name, python in programs.items():
            done = subprocess.run(
                [python, "-c", LOAD[name] + MEASURE, options.out], check=True, capture_output=True, text=True
            )
            print(f"{name}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
