"""Small Hugging Face directories, and ways to spoil them."""

import json
from dataclasses import asdict

import jax
from helpers import TINY, random_params
from safetensors.numpy import load_file, save_file

from bertjax.data.bpe import ByteBPE
from bertjax.data.specials import BERT
from bertjax.data.wordpiece import WordPiece
from bertjax.hf import write
from bertjax.models import roberta
from bertjax.objectives import features, mlm, supervised
from bertjax.train.state import param_shapes

BERT_CLASSES = {
    "BertForPreTraining": mlm.Config(),
    "BertForMaskedLM": mlm.Config("full-sentences"),
    "BertForSequenceClassification": supervised.Config(3),
    "BertForTokenClassification": supervised.Config(3, head="tag"),
    "BertForQuestionAnswering": supervised.Config(0, head="span"),
    "BertForMultipleChoice": supervised.Config(0, head="choose"),
    "BertModel": features.Config(),
}
ROBERTA_CLASSES = {name.replace("Bert", "Roberta"): head for name, head in list(BERT_CLASSES.items())[1:]}
OBJECTIVES = BERT_CLASSES | ROBERTA_CLASSES
ROBERTA_TINY = roberta.Config(
    **{**asdict(TINY), "type_count": 1, "norm_epsilon": 1e-5},
)
TOKENIZER = WordPiece([*BERT, *(f"word{i}" for i in range(60)), *(f"##{i}" for i in range(63))], lowercase=True)

# RoBERTa's order: the padding is row 1. Its bytes and merges do not fill the small table of TINY; few are needed.
BPE = ByteBPE(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdefghij", "ab", "Ġc"], ["a b", "Ġ c"], separators=2)


def parameters(objective, model=TINY, seed=0):
    """Random parameters that hide nothing."""
    shapes = param_shapes(objective.build(model))
    return jax.tree.map(lambda x: x, random_params(shapes, seed))


def export(folder, architecture="BertForPreTraining", model=None, tokenizer=None, **about):
    """Writes a directory; gives its parameters."""
    other = architecture.startswith("Roberta")
    model = model or (ROBERTA_TINY if other else TINY)
    if architecture.endswith(("SequenceClassification", "TokenClassification")):
        about = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, **about}
    about = {"classifier_dropout": 0.1, **about}
    params = parameters(OBJECTIVES[architecture], model)
    options = {"tokenizer": tokenizer or (BPE if other else TOKENIZER), "length": model.max_length}
    assert write.write(folder, model=model, params=params, about=about, **options) == architecture
    return params


def rename(folder, change, *, drop=()):
    """Writes the tensors of a directory anew under the names that `change` gives."""
    file = folder / "model.safetensors"
    tensors = {change(name): array for name, array in load_file(file).items() if name not in drop}
    save_file(tensors, file, metadata={"format": "pt"})


def configure(folder, **changes):
    """Changes keys of config.json; None takes one out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
