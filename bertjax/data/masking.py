"""Which tokens are to be predicted and what stands in their place: BERT's masking and what came after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

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
    """Corrupted tokens i32[n] and M static slots: positions i32[M], sorted; targets i32[M]; weights f32[M].

    Slots that are not used hold position 0, target 0 and weight 0.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def mask_tokens(
    tokens: np.ndarray, rng: np.random.Generator, *, vocab: Vocab, masking: Masking, slots: int, progress: float = 0.0
) -> Masked:
    """Choose min(slots, max(1, round(n * rate))) of tokens i32[n]; [CLS] and [SEP] count in n but are not chosen.

    Whole words come to a token or so less, where no word is left that would fit. Of the chosen, each for itself (of
    `span`, each span), `mask_share` become [MASK], `random_share` any row of the vocabulary (special ones too, as in
    the original), and the rest stay as they are.
    """
    budget = min(slots, max(1, round(len(tokens) * masking.rate_at(progress))))
    chosen, dice = CHOOSE[masking.kind](tokens, budget, rng, vocab)
    corrupted = tokens.astype(np.int32)
    corrupted[chosen[dice < masking.mask_share]] = vocab.mask
    replaced = chosen[(dice >= masking.mask_share) & (dice < masking.mask_share + masking.random_share)]
    corrupted[replaced] = rng.integers(vocab.size, size=len(replaced))
    count = len(chosen)
    positions, targets, weights = np.zeros(slots, np.int32), np.zeros(slots, np.int32), np.zeros(slots, np.float32)
    positions[:count], targets[:count], weights[:count] = chosen, tokens[chosen], 1.0
    return Masked(corrupted, positions, targets, weights)


# Each kind: (tokens, budget, rng, vocab) -> places i64[k], sorted, k <= budget, and the dice f64[k] of each.
Choice = Callable[[np.ndarray, int, np.random.Generator, Vocab], tuple[np.ndarray, np.ndarray]]


def _choose_tokens(
    tokens: np.ndarray, budget: int, rng: np.random.Generator, vocab: Vocab
) -> tuple[np.ndarray, np.ndarray]:
    """BERT (section 3.1; create_pretraining_data.py, create_masked_lm_predictions)."""
    candidates = np.flatnonzero((tokens != vocab.cls) & (tokens != vocab.sep))
    chosen = np.sort(rng.permutation(candidates)[:budget])
    return chosen, rng.random(len(chosen))


def _choose_words(
    tokens: np.ndarray,
    budget: int,
    rng: np.random.Generator,
    vocab: Vocab,
    *,
    lengths: Sequence[float],
    dice_a_span: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Spans of 1, 2, .. whole words with the probabilities `lengths`, never across [SEP].

    The row is cut into spans of random lengths, then spans are taken at random: so long ones are as likely to be
    taken as short ones, and every word as likely as any other. One that would overflow the budget is shortened.
    """
    spans = sorted(_take_spans(_words(tokens, vocab), budget, rng, lengths))
    chosen = np.array([place for start, stop in spans for place in range(start, stop)], np.int64)
    if not dice_a_span:
        return chosen, rng.random(len(chosen))
    return chosen, np.repeat(rng.random(len(spans)), [stop - start for start, stop in spans])


def _words(tokens: np.ndarray, vocab: Vocab) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W words: starts and stops i64[W], and whether one comes first after a mark bool[W]."""
    mark = (tokens == vocab.cls) | (tokens == vocab.sep)
    after_mark = np.concatenate([[True], mark[:-1]])
    begins = (vocab.starts_word[tokens] | after_mark) & ~mark  # a text may begin within a word
    bounds = np.flatnonzero(begins | mark)
    stops = np.append(bounds[1:], len(tokens))
    words = begins[bounds]
    return bounds[words], stops[words], after_mark[bounds[words]]


def _take_spans(
    words: tuple[np.ndarray, np.ndarray, np.ndarray], budget: int, rng: np.random.Generator, lengths: Sequence[float]
) -> list[tuple[int, int]]:
    """(start, stop) of spans of together `budget` tokens or a little less, in the order in which they were drawn."""
    starts, ends = words[0].tolist(), words[1].tolist()
    drawn = np.searchsorted(np.cumsum(lengths), rng.random(len(starts)) * sum(lengths), side="right") + 1
    cuts = np.cumsum(drawn)
    first = words[2].copy()
    first[cuts[cuts < len(starts)]] = True
    firsts = np.flatnonzero(first).tolist()  # the words with which a span begins
    spans: list[tuple[int, int]] = []
    for span in rng.permutation(len(firsts)).tolist():
        start, stop = starts[firsts[span]], 0
        for end in ends[firsts[span] : firsts[span + 1] if span + 1 < len(firsts) else None]:
            stop = end if end - start <= budget else stop
        if stop:
            spans.append((start, stop))
            budget -= stop - start
            if not budget:
                break
    return spans


NGRAMS = tuple(1 / n for n in (1, 2, 3))  # ALBERT, section 4.1
SPANS = tuple(0.2 * 0.8**n for n in range(10))  # SpanBERT, section 3.1: 3.8 words on average
CHOOSE: dict[str, Choice] = {
    "token": _choose_tokens,
    "word": partial(_choose_words, lengths=(1.0,)),
    "ngram": partial(_choose_words, lengths=NGRAMS),
    "span": partial(_choose_words, lengths=SPANS, dice_a_span=True),
}
