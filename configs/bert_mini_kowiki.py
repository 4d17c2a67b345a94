"""BERT-mini on Korean Wikipedia: WordPiece, cased, as lower-casing would take Hangul apart.

    bertjax prepare --corpus kowiki.jsonl --vocab-size 8192 --no-lowercase --out data
    bertjax pretrain configs/bert_mini_kowiki.py --data data --out runs/ko
    bertjax finetune configs/finetune_glue.py --task nsmc --from runs/ko --data korean --length 48 --out runs/ko-nsmc
    bertjax finetune configs/finetune_glue.py --task korsts --from runs/ko --data korean --length 64 --out runs/ko-sts

`korean` is the folder with nsmc/ and KorSTS/ as published. `prepare --tokenizer-kind unigram` makes a unigram
vocabulary in place of WordPiece. Expected, of 12 minutes of CPU and so of little worth but as a start: NSMC (8,000
rows, 2 epochs, lr 3e-4) 0.77 with WordPiece, 0.78 with unigram after half the steps; 0.77 from random weights, 0.75
from TF-IDF. KorSTS (2 epochs): Spearman 0.14 with either.
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
        length=64,
        log_every=25,
        eval_every=300,
        eval_batches=20,
        save_every=300,
    )
