"""Do exports load in the versions of transformers that people have, and give the same outputs and ids?

    python bench/hf_versions.py make --out /tmp/exports
    PYTHON bench/hf_versions.py check --out /tmp/exports      # in an environment with torch and a transformers

`make` exports a small model of every class of BERT and RoBERTa, with what it gives for some rows and the ids of some
texts; `check` needs nothing of ours. It prints a line for each class: keys that are missing or left over, the largest
difference of any output, and on how many texts the ids are equal.

Run on 2026-11-21 with torch 2.13.0 and transformers 4.30.2, 4.40.2, 4.57.1 and 5.23.0: for all 13 classes no key is
missing or left over, outputs differ by at most 1.4e-6, ids are equal on all texts.
"""

import argparse
import json
from pathlib import Path

import numpy as np

TEXTS = [
    "The cat sat on the mat.",
    "Ünï çødé, cafés and 東京!",
    "it's 5,000 (or so)",
    "a" * 150,
    "",
    "한국어 문장 하나",
]


def make(out: Path) -> None:
    """Directories, each with rows.npz (batch and outputs) and ids.json."""
    from bertjax.convert import outputs
    from bertjax.data.tokenizer import Tokenizer
    from bertjax.hf.write import write
    from bertjax.models import bert, roberta
    from bertjax.objectives import features, mlm, supervised
    from bertjax.train.state import init_params

    heads = {"SequenceClassification": supervised.Config(3), "TokenClassification": supervised.Config(5, head="tag")}
    heads |= {"QuestionAnswering": supervised.Config(0, head="span"), "Model": features.Config()}
    heads |= {"MultipleChoice": supervised.Config(0, head="choose"), "MaskedLM": mlm.Config("full-sentences")}
    heads |= {"PreTraining": mlm.Config()}
    sizes = {"width": 64, "layers": 3, "heads": 4, "mlp_width": 96, "max_length": 40, "init_std": 0.1}
    rng = np.random.default_rng(0)
    for family, kind in ((bert, "wordpiece"), (roberta, "bpe")):
        tokenizer = Tokenizer.train(TEXTS * 4, 400, lowercase=kind == "wordpiece", kind=kind)
        model = family.Config(vocab_size=tokenizer.vocab_size, **sizes)
        place = np.broadcast_to(np.arange(32, dtype=np.int32), (4, 32))
        rows = {
            "tokens": rng.integers(5, model.vocab_size, (4, 32)).astype(np.int32),
            "types": (place * model.type_count // 32).astype(np.int32),
            "sequence": (place < np.array([32, 16, 32, 20])[:, None]).astype(np.int32),
            "positions": place,
            "first_tokens": np.zeros((4, 1), np.int32),
            "masked_positions": np.tile(np.arange(8, dtype=np.int32), (4, 1)),
        }
        for head, config in heads.items():
            if head == "PreTraining" and family is roberta:
                continue
            objective = config.build(model)
            params = init_params(objective, seed=1)
            classes = getattr(config, "classes", 0)
            about = {"id2label": {str(i): f"L{i}" for i in range(classes)}} if classes else {}
            folder = out / f"{family.__name__.rpartition('.')[2].capitalize()}{head}"
            made = write(folder, model=model, tokenizer=tokenizer, params=params, length=512, about=about)
            expected = {f"out_{name}": value for name, value in outputs(objective, params, rows).items()}
            np.savez(folder / "rows.npz", **rows, **expected)
            ids = [tokenizer.pair_ids(row)[0].tolist() for row in tokenizer.encode_batch(TEXTS)]
            (folder / "ids.json").write_text(json.dumps({"class": made, "ids": ids}))


def check(out: Path) -> None:
    """Loads every directory with this environment's transformers."""
    import torch
    import transformers

    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    transformers.logging.set_verbosity_error()
    for folder in sorted(path for path in out.iterdir() if (path / "ids.json").is_file()):
        about = json.loads((folder / "ids.json").read_text())
        kind = getattr(transformers, about["class"])
        model, info = kind.from_pretrained(str(folder), output_loading_info=True)
        wrong = {name: len(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        difference = compare(model.eval(), np.load(folder / "rows.npz"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        found = [list(tokenizer(text)["input_ids"]) for text in TEXTS]
        equal = sum(a == b for a, b in zip(found, about["ids"], strict=True))
        print(f"{about['class']}: {wrong}, outputs {difference:.1e}, ids {equal} of {len(TEXTS)}", flush=True)


def compare(model: object, kept: dict[str, np.ndarray]) -> float:
    """The largest difference of any output that the model has."""
    import torch

    rows = {name: torch.tensor(kept[name]).long() for name in ("tokens", "types", "sequence", "masked_positions")}
    ids = {"input_ids": rows["tokens"], "attention_mask": rows["sequence"]}
    name = type(model).__name__
    if name.startswith("Bert"):
        ids["token_type_ids"] = rows["types"]
    if name.endswith("MultipleChoice"):
        ids = {key: value.reshape(-1, 2, value.shape[-1]) for key, value in ids.items()}
    with torch.no_grad():
        found = dict(model(**ids).items())
    real = rows["sequence"][..., None]
    if "start_logits" in found:
        made = {"logits": torch.stack([found["start_logits"], found["end_logits"]], dim=-1) * real}
    elif "last_hidden_state" in found:
        made = {"last_hidden_state": found["last_hidden_state"] * real, "pooler_output": found["pooler_output"]}
    elif name.endswith(("MaskedLM", "PreTraining")):
        logits = found.get("prediction_logits", found.get("logits"))
        made = {"mlm_logits": torch.take_along_dim(logits, rows["masked_positions"][..., None], dim=1)}
        if "seq_relationship_logits" in found:
            made["nsp_logits"] = found["seq_relationship_logits"][:, None]
    else:
        made = {"logits": found["logits"] * (real if name.endswith("TokenClassification") else 1)}
    return max(float(np.abs(value.numpy() - kept[f"out_{key}"]).max()) for key, value in made.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    (make if options.what == "make" else check)(options.out)
