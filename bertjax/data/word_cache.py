"""Encoding by words that were seen before: several times faster on prose, where a kind's words do not touch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain

from bertjax.data.specials import Specials
from bertjax.data.tokenizer import Tokenizer

CACHED_WORDS = 500_000  # of at most CACHED_LENGTH characters: about 150 MB
CACHED_LENGTH = 40


class WordTokenizer(Tokenizer):
    """A tokenizer that cuts each word for itself, whatever stands around it."""

    def __init__(self, vocabulary: Sequence[str], specials: Specials) -> None:
        super().__init__(vocabulary, specials)
        self._known: dict[str, list[int]] = {}

    @abstractmethod
    def words(self, text: str) -> list[str]:
        """Parts of a text whose ids, one after the other, are the ids of the text."""

    def encode_corpus(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of `encode_batch`; words seen before come from a bounded cache."""
        if len(self._known) > CACHED_WORDS:
            self._known.clear()
        words = [self.words(text) for text in texts]
        new = list(set(chain.from_iterable(words)).difference(self._known))
        self._known.update(zip(new, self._encode_words(new), strict=True))
        ids = [list(chain.from_iterable(map(self._known.__getitem__, row))) for row in words]
        for word in new:
            if len(word) > CACHED_LENGTH:
                del self._known[word]
        return ids

    def _encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode_batch(words)
