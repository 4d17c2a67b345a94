"""Documents as arrays, and as the records of a shard.

A record: u32 [bytes per token, documents that start here, sentences], u32 [the sentences at which those documents
start], u32 [tokens of each sentence], then the tokens. A document may go on in the next record, a sentence may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

BLOCK_TOKENS = 32_768


class Document(NamedTuple):
    """Tokens uint16 or uint32 [n] and how many of them each sentence has, u32."""

    tokens: np.ndarray
    lengths: np.ndarray


class Shard(NamedTuple):
    """T tokens, S sentences and D documents; both starts end with one past the last, so item i is [i] to [i + 1]."""

    tokens: np.ndarray  # uint16 or uint32 [T]
    sentence_starts: np.ndarray  # i64[S + 1], indices into tokens
    document_starts: np.ndarray  # i64[D + 1], indices into sentences


def pack(documents: Iterable[Document]) -> Iterator[bytes]:
    """Records of whole documents, each of BLOCK_TOKENS tokens or a sentence more."""
    starts: list[int] = []
    lengths: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    sentences = size = 0
    for document in documents:
        starts.append(sentences)
        ends = np.cumsum(document.lengths, dtype=np.int64)
        done = at = 0  # sentences and tokens of the document that are in a block
        while done < len(ends):
            stop = min(int(np.searchsorted(ends, at + BLOCK_TOKENS - size)) + 1, len(ends))
            upto = int(ends[stop - 1])
            lengths.append(document.lengths[done:stop])
            tokens.append(document.tokens[at:upto])
            sentences, size = sentences + stop - done, size + upto - at
            done, at = stop, upto
            if size >= BLOCK_TOKENS:
                yield _block(starts, lengths, tokens)
                starts, lengths, tokens, sentences, size = [], [], [], 0, 0
    if tokens:
        yield _block(starts, lengths, tokens)


def _block(starts: list[int], lengths: list[np.ndarray], tokens: list[np.ndarray]) -> bytes:
    count = sum(map(len, lengths))
    head = np.array([tokens[0].itemsize, len(starts), count, *starts], np.uint32)
    return b"".join(part.tobytes() for part in (head, *lengths, *tokens))


def unpack(records: Iterable[bytes]) -> Shard:
    """The documents of the records of `pack`, joined; ValueError for what is none."""
    tokens, lengths, starts, sentences = [], [], [], 0
    for record in records:
        width, documents, count = np.frombuffer(record, np.uint32, 3).tolist()
        if width not in (2, 4):
            raise ValueError(f"tokens of {width} bytes")
        starts.append(np.frombuffer(record, np.uint32, documents, 12).astype(np.int64) + sentences)
        lengths.append(np.frombuffer(record, np.uint32, count, 12 + 4 * documents))
        tokens.append(np.frombuffer(record, f"u{width}", offset=12 + 4 * (documents + count)))
        sentences += count
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    shard = Shard(
        tokens=np.concatenate(tokens),
        sentence_starts=np.concatenate([[0], ends]),
        document_starts=np.concatenate([*starts, [sentences]]),
    )
    if not len(ends) or ends[-1] != len(shard.tokens) or shard.document_starts[0] != 0:
        raise ValueError("sentences that are not those of its tokens")
    if (np.diff(shard.document_starts) < 0).any():
        raise ValueError("documents in disorder")
    return shard
