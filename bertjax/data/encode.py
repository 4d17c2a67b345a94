"""Documents to tokens: what the processes of `prepare --workers` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from bertjax.data import parallel
from bertjax.data.blocks import Document
from bertjax.data.tokenizer import Tokenizer

ENCODED_AT_ONCE = 200_000  # characters: enough to make calls of the tokenizer cheap

Raw = tuple[str, list[str]]  # a document's split and lines


class Encoded(NamedTuple):
    """A document of a split as tokens, how many white-space words it had, and how many sentences without tokens."""

    split: str
    document: Document
    words: int
    dropped: int


def lots(documents: Iterable[Raw]) -> Iterator[list[Raw]]:
    """Runs of documents of about ENCODED_AT_ONCE characters."""
    return parallel.lots(documents, lambda document: sum(map(len, document[1])), ENCODED_AT_ONCE)


class Encoder:
    """Tokenises a lot; `sentences` gives the sentences of a document's lines."""

    def __init__(self, tokenizer: Tokenizer, sentences: Callable[[list[str]], list[str]]) -> None:
        self.tokenizer, self.sentences = tokenizer, sentences

    def __call__(self, lot: list[Raw]) -> list[Encoded]:
        dtype = np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32
        texts = [self.sentences(lines) for _, lines in lot]
        tokens, lengths, words = self.tokenizer.encode_corpus(
            list(chain.from_iterable(map(self.tokenizer.running, texts)))
        )
        tokens, ends = tokens.astype(dtype), np.concatenate([[0], np.cumsum(lengths)])
        encoded, start = [], 0
        for (split, _), text in zip(lot, texts, strict=True):
            stop = start + len(text)
            sizes = lengths[start:stop]
            # A copy, as a view of a document that is held would hold the whole lot.
            document = Document(tokens[ends[start] : ends[stop]].copy(), sizes[sizes > 0].astype(np.uint32))
            dropped = len(text) - len(document.lengths)
            encoded.append(Encoded(split, document, int(words[start:stop].sum()), dropped))
            start = stop
        return encoded
