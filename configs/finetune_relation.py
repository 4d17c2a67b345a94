"""Fine-tuning on relations between two entities: SemEval-2010 task 8 or ChemProt, as R-BERT (Wu and He 2019).

    bertjax finetune configs/finetune_relation.py --task semeval2010 --from runs/base --data semeval --out runs/relation
    bertjax finetune configs/finetune_relation.py --task chemprot --length 256 --data chemprot ...

`--data` is the folder with TRAIN_FILE.TXT, whose last tenth is dev, and TEST_FILE_FULL.TXT (test); or with train.jsonl
and dev.jsonl. Entities are shown to the model between marks, "the $ cat $ sat on the # mat #", and the class is read
from the first token. R-BERT, which also reads the entities' own states, has a macro-F1 of 89.25 on the test set of
SemEval from BERT-large; SciBERT's micro-F1 on ChemProt is 83.6.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="semeval2010",
        epochs=5,
        batch_size=16,
        length=128,
        optimizer=Optimizer(kind="adamw", peak_lr=2e-5, warmup=0.1),
    )
