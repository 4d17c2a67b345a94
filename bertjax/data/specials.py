"""The five tokens that no text contains: how a vocabulary names them."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class Specials(NamedTuple):
    """Names of the special tokens, in the order in which a vocabulary trained here begins with them."""

    pad: str
    unk: str
    cls: str
    sep: str
    mask: str


BERT = Specials("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = Specials("<pad>", "<unk>", "<s>", "</s>", "<mask>")
ALBERT = Specials("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def named_in(vocabulary: Container[str], otherwise: Specials) -> Specials:
    """For each role the name that a vocabulary has of those in use; where it has none, the one of `otherwise`."""
    roles = zip(otherwise, BERT, ROBERTA, strict=True)
    return Specials(*(next((name for name in names if name in vocabulary), names[0]) for names in roles))
