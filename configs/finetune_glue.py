"""Fine-tuning on a GLUE task with the settings of Turc et al. 2019 for small models.

    bertjax finetune configs/finetune_glue.py --task cola --from runs/mini --data glue --out runs/mini-cola

`--data` is the folder with CoLA/, SST-2/, MRPC/, STS-B/, QQP/, MNLI/, QNLI/, RTE/, WNLI/ and diagnostic/ as
published. For BERT-base and larger take `--optimizer.peak-lr 2e-5`; for all tasks `--task glue --seeds 0 1 2`.
The scores published for the small models stand in the README of google-research/bert.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        epochs=4,
        batch_size=32,
        length=128,
        buckets=(32, 64),
        optimizer=Optimizer(kind="adamw", peak_lr=1e-4, warmup=0.1),
    )
