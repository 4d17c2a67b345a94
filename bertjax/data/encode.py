"""Documents to tokens: what the processes of `prepare --workers` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

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
    several: list[Raw] = []
    size = 0
    for document in documents:
        several.append(document)
        size += sum(map(len, document[1]))
        if size >= ENCODED_AT_ONCE:
            yield several
            several, size = [], 0
    if several:
        yield several


class Encoder:
    """Tokenises a lot; `sentences` gives the sentences of a document's lines."""

    def __init__(self, tokenizer: Tokenizer, sentences: Callable[[list[str]], list[str]]) -> None:
        self.tokenizer, self.sentences = tokenizer, sentences

    def __call__(self, lot: list[Raw]) -> list[Encoded]:
        dtype = np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32
        texts = [self.sentences(lines) for _, lines in lot]
        ids = iter(self.tokenizer.encode_corpus(list(chain.from_iterable(map(self.tokenizer.running, texts)))))
        encoded = []
        for (split, _), text in zip(lot, texts, strict=True):
            rows = [row for row in islice(ids, len(text)) if row]
            lengths = np.array([len(row) for row in rows], np.uint32)
            tokens = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum()))
            words = sum(len(sentence.split()) for sentence in text)
            encoded.append(Encoded(split, Document(tokens, lengths), words, len(text) - len(rows)))
        return encoded
