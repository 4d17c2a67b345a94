"""Spam or not, from 200 labelled messages (launch/quickstart.sh).

    bertjax finetune configs/quickstart_spam.py --from runs/quickstart/pretrained --data sample_data --out runs/spam

Expected: F1 about 0.90 from the pretrained encoder, 0.75 from random weights (--encoder random), 0.73 from TF-IDF: means
over 6 seeds, each of which draws other messages. Single seeds lie up to 0.1 (random weights: 0.3) from them.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="sms_spam",
        baseline="tfidf",
        train_rows=200,
        epochs=12,
        batch_size=16,
        length=64,
        optimizer=Optimizer(kind="adamw", peak_lr=5e-4, warmup=0.1),
    )
