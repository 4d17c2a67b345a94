"""Fine-tuning on CoNLL-2003's named entities (Devlin et al. 2019, section 5.3, without the context of the document).

    bertjax finetune configs/finetune_ner.py --task conll2003 --from runs/base-cased --data conll2003 --out runs/ner

`--data` is the folder with eng.train, eng.testa (dev) and eng.testb (test), or train.txt, valid.txt and test.txt: a
word a line, its tag in the last column, a blank line between sentences; IOB1, IOB2 and BIOES are all read. The tag of a
word stands on its first piece; longer sentences are seen in overlapping windows. Take a cased encoder: BERT-base cased
has an entity F1 of 96.4 on dev and 92.4 on test, with the context of the document.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="conll2003",
        epochs=3,
        batch_size=32,
        length=128,
        optimizer=Optimizer(kind="adamw", peak_lr=5e-5, warmup=0.1),
    )
