"""BERT as published (Devlin et al. 2018, appendix A.2), rows of 128 for 90% of the steps, then of 512.

    bertjax prepare --corpus 'corpus/*.jsonl' --tokenizer vocab.txt --out data
    bertjax pretrain configs/bert.py --data data --out runs/base [--preset tiny|mini|small|medium|base|large]

Hardware: BERT-base is 2.2e19 FLOP in all, 0.7 days of one H100-class GPU at 40% of its bf16 peak; the authors took
four days on 16 TPU chips. `--model.dtype bfloat16` there; `--micro-batches 4` where memory is short.
Expected at the end on Wikipedia and books: masked-token loss about 1.4 (base), GLUE test average 79.6.
GELU is exact here, as in transformers; the authors' code takes an approximation (`--model.activation gelu_tanh`).
Not run to its end by us yet.
"""

from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.optim import Optimizer


def config() -> Pretrain:
    return Pretrain(
        model=bert.PRESETS["base"],
        optimizer=Optimizer(kind="bert-adam", peak_lr=1e-4, warmup=10_000),
        steps=1_000_000,
        batch_size=256,
        length=128,
        later_phases=((0.1, 512, 256),),
        workers=2,
    )
