"""Fine-tuning on multiple choice: SWAG, DREAM or COPA, with the settings of BERT for SWAG (Devlin et al. 2019, 4.4).

    bertjax finetune configs/finetune_choice.py --task swag --from runs/base --data swag --out runs/swag
    bertjax finetune configs/finetune_choice.py --task dream --length 512 --batch-size 8 --data dream ...
    bertjax finetune configs/finetune_choice.py --task copa --epochs 10 --data superglue/COPA ...

`--data` is the folder with the published files: train.csv and val.csv; train.json and dev.json; train.jsonl and
val.jsonl. `--length` is that of one choice with its context. BERT-base has an accuracy of 81.6 on the dev set of SWAG.
`bertjax predict --top N` ranks 2 to 100 choices a row, in JSON lines with `context`, `choices`, perhaps `question`.
"""

from bertjax.config import Finetune
from bertjax.train.optim import Optimizer


def config() -> Finetune:
    return Finetune(
        task="swag",
        epochs=3,
        batch_size=16,
        length=128,
        optimizer=Optimizer(kind="adamw", peak_lr=2e-5, warmup=0.1),
    )
