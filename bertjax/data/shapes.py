"""What a batch looks like before there is any data: a row of made-up text on the way that all rows go."""

from __future__ import annotations

import numpy as np

from bertjax.data.blocks import Shard
from bertjax.data.masking import Vocab
from bertjax.data.packing import one_each, sequences_in_row
from bertjax.data.rows import Corruption, HostBatch, Planner, row_batch
from bertjax.data.sources import generator

DOCUMENTS, SENTENCES = 4, 8


def made_up_row(*, planner: Planner, corruption: Corruption, vocab: Vocab, length: int, packing: bool) -> HostBatch:
    """A batch of one row with the arrays, types and shapes that a `CorpusSource` of these would give."""
    size = -(-length // 4)
    count = DOCUMENTS * SENTENCES
    shard = Shard(
        tokens=np.full(count * size, vocab.size - 1, np.uint32),
        sentence_starts=np.arange(count + 1) * size,
        document_starts=np.arange(DOCUMENTS + 1) * SENTENCES,
    )
    plan = planner(shard, length=length, rng=generator(0))
    batch = row_batch(
        shard.tokens,
        plan,
        one_each(len(plan)),
        np.zeros(1, np.int64),
        length=length,
        most=sequences_in_row(length, packing=packing),
        vocab=vocab,
    )
    return corruption(batch, np.zeros(1, np.uint64), 0.0)


def made_up_vocab(size: int) -> Vocab:
    """A vocabulary of which only the size is known."""
    return Vocab(size, pad=0, unk=1, cls=2, sep=3, mask=4, starts_word=np.ones(size, bool))
