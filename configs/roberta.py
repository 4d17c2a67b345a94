"""RoBERTa as published (Liu et al. 2019, table 9): rows of 512 full of sentences, masked anew each time.

    bertjax prepare --corpus 'corpus/*.jsonl' --tokenizer FOLDER_WITH_merges.txt --out data
    bertjax pretrain configs/roberta.py --data data --out runs/roberta [--preset base|large]

`prepare --tokenizer-kind bpe --vocab-size 50265` trains a vocabulary of its own. Large: `--optimizer.peak-lr 4e-4
--optimizer.warmup 30000`.

Hardware: base is 1.2e21 FLOP in all, 35 days of one H100-class GPU at 40% of its bf16 peak; the authors took 1,024 V100
for a day. `--model.dtype bfloat16`; `--micro-batches` by what `bertjax plan` says of your chips.
Expected: MNLI 87.6, QNLI 92.8, SST-2 94.8, CoLA 63.6 on the dev sets after 500,000 steps on 160 GB of text (base).
Not run to its end by us.
"""

from bertjax.config import Pretrain
from bertjax.models import roberta
from bertjax.objectives import mlm
from bertjax.train.optim import Optimizer


def config() -> Pretrain:
    return Pretrain(
        model=roberta.PRESETS["base"],
        objective=mlm.Config("full-sentences"),
        optimizer=Optimizer(kind="adamw", peak_lr=6e-4, warmup=24_000, b2=0.98, epsilon=1e-6, clip_norm=0.0),
        steps=500_000,
        batch_size=8_192,
        length=512,
        workers=8,
    )
