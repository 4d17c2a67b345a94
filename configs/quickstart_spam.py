"""Spam or not, from 200 labelled messages (launch/quickstart.sh).

bertjax finetune configs/quickstart_spam.py --from runs/quickstart/pretrained --data sample_data --out runs/spam
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="sms_spam",
        baseline="tfidf",
        train_rows=200,
        epochs=8,
        batch_size=16,
        length=64,
        optimizer=Optimizer(kind="adamw", peak_lr=1e-3, warmup=0.1),
    )
