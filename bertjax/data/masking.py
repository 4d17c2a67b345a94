"""Which tokens are to be predicted and what stands in their place: BERT's masking and what came after it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from bertjax.data import choosing
from bertjax.data.draws import below, draw, uniform
from bertjax.data.ragged import ranges
from bertjax.errors import ConfigError, closest


class _Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...
    @property
    def starts_word(self) -> np.ndarray: ...

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int


class Vocab(NamedTuple):
    """The size of a vocabulary, the ids of its special tokens and, for whole words, which ids begin a word."""

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    starts_word: np.ndarray = np.empty(0, bool)  # bool[size]

    @classmethod
    def of(cls, tokenizer: _Tokenizer) -> Vocab:
        """The vocabulary of a tokenizer."""
        t = tokenizer
        return cls(t.vocab_size, t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id, t.starts_word)


Kind = Literal["token", "word", "ngram", "span"]
NGRAMS = tuple(1 / n for n in (1, 2, 3))  # ALBERT, section 4.1
SPANS = tuple(0.2 * 0.8**n for n in range(10))  # SpanBERT, section 3.1: 3.8 words on average
LENGTHS: dict[str, tuple[float, ...]] = {"word": (1.0,), "ngram": NGRAMS, "span": SPANS}
CHOICE, LENGTH, DICE, REPLACEMENT = range(4)  # what draws are for


@dataclass(frozen=True)
class Masking:
    """What is masked, how much of it, and with what."""

    kind: Kind = "token"
    """token (BERT); word: whole words; ngram: 1 to 3 whole words, p ~ 1/n (ALBERT); span: geometric (SpanBERT)"""
    rate: tuple[float, ...] = (0.15,)
    """share of the tokens to predict; several values: from one to the next in equal parts of the training"""
    mask_share: float = 0.8
    """of those, replaced by [MASK] (1: all)"""
    random_share: float = 0.1
    """of those, replaced by a random token; the others stay as they are"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"objective.masking.kind={self.kind!r}{closest(self.kind, get_args(Kind))}")
        if not self.rate or not all(0.0 < rate < 1.0 for rate in self.rate):
            given = " ".join(map(str, self.rate)) or "nothing"
            raise ConfigError(f"objective.masking.rate={given} must lie between 0 and 1; BERT's is 0.15")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1.0:
            raise ConfigError(
                f"objective.masking.mask_share={self.mask_share} and random_share={self.random_share} must be shares "
                "that sum to at most 1; BERT's are 0.8 and 0.1"
            )

    def rate_at(self, progress: float) -> float:
        """The rate when `progress`, from 0 to 1, of the training is done."""
        place = progress * (len(self.rate) - 1)
        before, after = self.rate[int(place)], self.rate[min(int(place) + 1, len(self.rate) - 1)]
        return before + place % 1 * (after - before)

    def slots(self, length: int) -> int:
        """Masked positions a row has room for at the highest rate: at 15%, 20 at 128 and 77 at 512."""
        return max(1, ceil(max(self.rate) * length))


class Masked(NamedTuple):
    """Corrupted tokens i32[B,L] and M static slots: positions i32[B,M], sorted; targets i32[B,M]; weights f32[B,M].

    Slots that are not used come last and hold position 0, target 0 and weight 0.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def mask_tokens(
    tokens: np.ndarray,
    real: np.ndarray,
    keys: np.ndarray,
    *,
    vocab: Vocab,
    masking: Masking,
    slots: int,
    progress: float = 0.0,
) -> Masked:
    """Choose min(slots, max(1, round(n * rate))) of the n real tokens of each row of tokens i32[B,L].

    `real` bool[B,L] is false in padding; [CLS] and [SEP] count in n but are not chosen. Whole words come to a token or
    so less, where no word is left that would fit. Of the chosen, each for itself (of `span`, each span), `mask_share`
    become [MASK], `random_share` any row of the vocabulary (special ones too, as in the original), and the rest stay
    as they are. What becomes of a row depends on the row and its key u64 alone.
    """
    length = tokens.shape[1]
    budgets = np.clip(np.rint(real.sum(1) * masking.rate_at(progress)).astype(np.int64), 1, slots)
    text = real & (tokens != vocab.cls) & (tokens != vocab.sep)
    scores = draw(keys[:, None], CHOICE, np.arange(length))
    if masking.kind == "token":
        places = owners = choosing.tokens(text, budgets, scores)
    else:
        words = choosing.Words.of(text, vocab.starts_word[tokens])
        draws = draw(keys[:, None], LENGTH, np.arange(length))
        places, owners = choosing.spans(words, budgets, scores, draws, LENGTHS[masking.kind])
    rows, columns = np.divmod(places, length)
    of_span = owners if masking.kind == "span" else places
    dice = uniform(draw(keys[rows], DICE, of_span % length))
    chosen = tokens.reshape(-1)[places]
    replacement = np.where(dice < masking.mask_share, vocab.mask, chosen)
    random = (dice >= masking.mask_share) & (dice < masking.mask_share + masking.random_share)
    replacement[random] = below(draw(keys[rows], REPLACEMENT, columns), vocab.size)[random]
    corrupted = tokens.astype(np.int32)
    corrupted.reshape(-1)[places] = replacement
    counts = np.bincount(rows, minlength=len(tokens))
    slot = ranges(0, counts)
    positions, targets = np.zeros((2, len(tokens), slots), np.int32)
    weights = np.zeros((len(tokens), slots), np.float32)
    positions[rows, slot], targets[rows, slot], weights[rows, slot] = columns, chosen, 1.0
    return Masked(corrupted, positions, targets, weights)
