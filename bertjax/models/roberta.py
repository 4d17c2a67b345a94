"""RoBERTa (Liu et al. 2019): BERT's encoder with one type of token; what differs is how it is trained.

Hugging Face counts its positions from `pad_token_id` + 1 on: the rows of the table before are never used, and not kept.
"""

from dataclasses import dataclass

from bertjax.models import bert

Encoder = bert.Encoder


@dataclass(frozen=True)
class Config(bert.Config):
    """Sizes and numerics; the defaults are RoBERTa-base."""

    vocab_size: int = 50_265
    type_count: int = 1
    norm_epsilon: float = 1e-5


PRESETS: dict[str, Config] = {"base": Config(), "large": Config(width=1_024, layers=24, heads=16, mlp_width=4_096)}

# As in bert.py, of transformers' modeling_roberta.py.
HF_CONFIG = bert.HF_CONFIG
HF_ONLY = {**bert.HF_ONLY, "hidden_act": "gelu"}  # its MLM head has no other, whatever the file says
HF_POSITIONS_AFTER_PADDING = True
HF_SEPARATORS = 2  # <s> a </s></s> b </s>
HF_PREFIX = "roberta."
HF_NAMES = {ours: theirs.replace(bert.HF_PREFIX, HF_PREFIX) for ours, theirs in bert.HF_NAMES.items()}
_POOLER = {"pooler": "roberta.pooler.dense"}
HF_HEADS: dict[str, dict[str, str]] = {
    "RobertaForMaskedLM": {"mlm/transform": "lm_head.dense", "mlm/norm": "lm_head.layer_norm", "mlm": "lm_head"},
    "RobertaForSequenceClassification": {"pooler": "classifier.dense", "classify": "classifier.out_proj"},
    "RobertaForTokenClassification": {"tag": "classifier"},
    "RobertaForQuestionAnswering": {"span": "qa_outputs"},
    "RobertaForMultipleChoice": {**_POOLER, "choose": "classifier"},
    "RobertaModel": _POOLER,
}
HF_TIED = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
