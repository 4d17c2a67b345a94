"""BERT-mini on Simple English Wikipedia in about 20 minutes of CPU: what little compute gives.

    bertjax prepare --corpus simplewiki.jsonl --vocab-size 8192 --out data
    bertjax pretrain configs/bert_mini_simplewiki.py --data data --out runs/mini

Small batches, as few tokens are seen: many updates matter more than smooth ones.
"""

from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.optim import Optimizer


def config() -> Pretrain:
    return Pretrain(
        model=bert.PRESETS["mini"],
        optimizer=Optimizer(kind="adamw", peak_lr=1e-3, warmup=0.1),
        steps=1_200,
        batch_size=16,
        length=128,
        log_every=25,
        eval_every=200,
        eval_batches=20,
        save_every=200,
    )
