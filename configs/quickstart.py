"""BERT-tiny on the novels and messages of sample_data: a minute or so on 2 CPU cores (launch/quickstart.sh).

bertjax prepare --corpus sample_data/*.txt.gz --vocab-size 4096 --held-out 0.05 --out runs/data
bertjax pretrain configs/quickstart.py --data runs/data --out runs/quickstart/pretrained

Expected: held-out loss from 9.0 to about 6.5, masked accuracy from 0 to about 0.1, NSP accuracy about 0.8 (0.7 is
what always answering "not next" gets: a message of one sentence has no next). Small batches of short rows, as many
updates matter more than smooth ones when so few tokens are seen; no dropout, as nothing is learnt by heart so soon.
"""

from dataclasses import replace

from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.optim import Optimizer


def config() -> Pretrain:
    return Pretrain(
        model=replace(bert.PRESETS["tiny"], dropout=0.0, attention_dropout=0.0),
        optimizer=Optimizer(kind="adamw", peak_lr=1e-3, warmup=0.1),
        steps=1_400,
        batch_size=16,
        length=48,
        log_every=20,
        eval_every=700,
        eval_batches=8,
        save_every=700,
    )
