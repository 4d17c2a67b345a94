"""BERT's masking of tokens (paper section 3.1; create_pretraining_data.py, create_masked_lm_predictions)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class _Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int


class Vocab(NamedTuple):
    """The size of a vocabulary and the ids of its special tokens: all that a corruption needs to know of it."""

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, tokenizer: _Tokenizer) -> Vocab:
        """The vocabulary of a tokenizer."""
        t = tokenizer
        return cls(t.vocab_size, t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id)


class _Special(Protocol):
    """What masking needs of a `Vocab` or of anything like it."""

    @property
    def size(self) -> int: ...
    @property
    def cls(self) -> int: ...
    @property
    def sep(self) -> int: ...
    @property
    def mask(self) -> int: ...


class Masked(NamedTuple):
    """Corrupted tokens i32[n] and M static slots: positions i32[M], sorted; targets i32[M]; weights f32[M].

    Slots that are not used hold position 0, target 0 and weight 0.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def mask_tokens(
    tokens: np.ndarray,
    rng: np.random.Generator,
    *,
    vocab: _Special,
    slots: int,
    rate: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> Masked:
    """Choose min(slots, max(1, round(n * rate))) of tokens i32[n]; [CLS] and [SEP] count in n but are not chosen.

    Of the chosen, each for itself, `mask_share` become [MASK], `random_share` any row of the vocabulary (special
    ones too, as in the original), and the rest stay as they are.
    """
    candidates = np.flatnonzero((tokens != vocab.cls) & (tokens != vocab.sep))
    count = min(slots, max(1, round(len(tokens) * rate)), len(candidates))
    chosen = np.sort(rng.permutation(candidates)[:count])
    dice = rng.random(count)
    corrupted = tokens.astype(np.int32)
    corrupted[chosen[dice < mask_share]] = vocab.mask
    replaced = chosen[(dice >= mask_share) & (dice < mask_share + random_share)]
    corrupted[replaced] = rng.integers(vocab.size, size=len(replaced))
    positions, targets, weights = np.zeros(slots, np.int32), np.zeros(slots, np.int32), np.zeros(slots, np.float32)
    positions[:count], targets[:count], weights[:count] = chosen, tokens[chosen], 1.0
    return Masked(corrupted, positions, targets, weights)
