"""README.md of an exported model: what it is, what it was trained on and how, and how well it did."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax.config import Finetune, Pretrain
from bertjax.data.spiece import SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.hf import unigram
from bertjax.jsonio import expecting, read_json, to_json
from bertjax.resume import verdict
from bertjax.saved import Imported, SavedRun, versions

PIPELINES = {  # of the model hub, by the last word of the class
    "PreTraining": "fill-mask",
    "MaskedLM": "fill-mask",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
    "Model": "feature-extraction",
}
PATHS = {"data", "source"}  # on the disk of who trained it: the last part of the path is what is of use

TOKENIZER = """## Tokenizer

AutoTokenizer gives the ids the model was trained with, with these exceptions: in bertjax the name of a special token
in a text, such as `[SEP]`, is ordinary text; an uncased WordPiece sees a final capital sigma as ς; and by a
SentencePiece model that bertjax did not learn, a word may be cut otherwise where two ways are equally likely, or a
number before a comma: about one line in 10,000."""
NO_TOKENIZER_JSON = """## Tokenizer

There is no tokenizer.json, as none can say what this model's spiece.model does ({reason}), and what AutoTokenizer makes
of that file may give other ids than the model was trained with: take them from `bertjax.load(PATH).tokenizer`."""


def card(saved: SavedRun, name: str, architecture: str, parameters: int) -> str:
    """The text of a model card, with the front matter that the hub reads."""
    sections = [
        _front_matter(saved, name, architecture),
        f"# {name}",
        _what(saved, architecture, parameters),
        _use(architecture),
        _training(saved),
        _results(saved),
        _tokenizer(saved.tokenizer),
        "## Versions\n\n" + ", ".join(f"{library} {version}" for library, version in versions().items()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _tokenizer(tokenizer: Tokenizer) -> str:
    if isinstance(tokenizer, SentencePiece) and (reason := unigram.why_not(tokenizer)):
        return NO_TOKENIZER_JSON.format(reason=reason)
    return TOKENIZER


def _pipeline(architecture: str) -> str:
    return next(pipeline for ending, pipeline in PIPELINES.items() if architecture.endswith(ending))


def _front_matter(saved: SavedRun, name: str, architecture: str) -> str:
    pipeline = _pipeline(architecture)
    lines = ["library_name: transformers", f"pipeline_tag: {pipeline}", "tags:", "- bertjax"]
    measured = _measured(saved)
    if measured and isinstance(saved.config, Finetune):
        task = saved.config.task
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:", "  - task:", f"      type: {pipeline}"]
        lines += ["    dataset:", f"      name: {task}", f"      type: {task}", "      split: dev", "    metrics:"]
        lines += [
            line for metric, value in measured.items() for line in (f"    - type: {metric}", f"      value: {value}")
        ]
    return "\n".join(["---", *lines, "---"])


def _what(saved: SavedRun, architecture: str, parameters: int) -> str:
    model = to_json(saved.model)
    sizes = ", ".join(f"{key} {model[key]}" for key in ("layers", "width", "heads", "max_length", "vocab_size"))
    text = f"`{architecture}` with {parameters:,} parameters: {sizes}, activation {model['activation']}."
    if isinstance(saved.config, Pretrain) and getattr(saved.config.objective, "examples", "") == "sop":
        text += " What transformers calls next sentence prediction is sentence order prediction here: 1 is swapped."
    if labels := saved.config.labels if isinstance(saved.config, Imported) else _labels(saved):
        text += f" Labels, in the order of the logits: {', '.join(labels)}."
    return text


def _labels(saved: SavedRun) -> tuple[str, ...]:
    return saved.task().labels if isinstance(saved.config, Finetune) else ()


def _use(architecture: str) -> str:
    return f"""```python
from transformers import AutoTokenizer, {architecture}

tokenizer, model = AutoTokenizer.from_pretrained(PATH), {architecture}.from_pretrained(PATH)
```

or `bertjax.load(PATH)`. `parity.json` says how far the outputs of these files are from those of the run they are of."""


def _training(saved: SavedRun) -> str:
    if isinstance(saved.config, Imported):
        return (
            f"## Training\n\nNot trained by bertjax: the weights were imported from `{Path(saved.config.source).name}`."
        )
    lines = [f"- {key}: {value}" for key, value in _settings(to_json(saved.config))]
    data = ""
    if isinstance(saved.config, Finetune):
        data = f"Data: {saved.task().source}.\n\n" + "".join(f"- {line}\n" for line in _rows(saved)) + "\n"
    return f"## Training\n\n{data}`bertjax {saved.command}`, checkpoint of step {saved.step}, with\n\n" + "\n".join(
        lines
    )


def _rows(saved: SavedRun) -> Iterator[str]:
    file = saved.path / "scores.json"
    if file.is_file():
        with expecting(file, "finetune"):
            for split, about in read_json(file, "finetune")["data"].items():
                yield f"{split}: {about['rows']:,} rows, sha256 {about['sha256']}"


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What makes a run the one it is: its data, and what must stay as it is when it is resumed."""
    for key, value in config.items():
        if key in PATHS:
            yield from _flat(key, [Path(path).name for path in ([value] if isinstance(value, str) else value)])
        elif verdict(key) == "must match":
            yield from _flat(key, value)


def _flat(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(f"{key}.{name}", part)
    else:
        yield key, f"`{json.dumps(value)}`"


def _measured(saved: SavedRun) -> dict[str, float]:
    return {name: round(value, 6) for name, value in saved.figures.items() if isinstance(value, float)}


def _results(saved: SavedRun) -> str:
    measured = _measured(saved)
    if isinstance(saved.config, Imported) or not measured:
        return ""
    on = f"the dev set of {saved.config.task}" if isinstance(saved.config, Finetune) else "held-out text"
    rows = "\n".join(f"| {name} | {value} |" for name, value in measured.items())
    return f"## Results\n\nOf one run (the seed is above), on {on}:\n\n| metric | value |\n|---|---|\n{rows}"
