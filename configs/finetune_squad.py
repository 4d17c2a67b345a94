"""Fine-tuning on SQuAD 1.1 or 2.0 with the settings of BERT-base (Devlin et al. 2019, section 4.2).

    bertjax finetune configs/finetune_squad.py --task squad --from runs/base --data squad --out runs/squad
    bertjax finetune configs/finetune_squad.py --task squad2 --epochs 2 --batch-size 48 --optimizer.peak-lr 5e-5 ...

`--data` is the folder with train-v1.1.json and dev-v1.1.json (or v2.0) as published. RUN/predictions.json,
nbest_predictions.json and null_odds.json are what the official scorers read. BERT-base has an exact match of 80.8 and
an F1 of 88.5 on the dev set of 1.1. Contexts longer than a row are seen in overlapping windows,
`--task-settings stride=128` tokens apart; an answer has at most max_answer=30.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="squad",
        epochs=3,
        batch_size=32,
        length=384,
        dropout=0.0,  # BERT has none under this head
        optimizer=Optimizer(kind="adamw", peak_lr=5e-5, warmup=0.1),
    )
