import pickle

import numpy as np
import pytest

from bertjax.data.contiguous import doc_sentences, full_sentences, segments
from bertjax.data.masking import Masking, Vocab, mask_tokens
from bertjax.data.plan import next_sentence, sentence_order
from bertjax.data.shards import Meta, read_shard
from bertjax.data.sources import CorpusSource, Position, generator
from bertjax.errors import ConfigError


def corrupt(batch, keys, progress):
    vocab = Vocab(50, 0, 1, 2, 3, 4)
    out = mask_tokens(batch["tokens"], batch["sequence"] > 0, keys, vocab=vocab, masking=Masking(), slots=6)
    masked = {"masked_positions": out.positions, "masked_targets": out.targets, "masked_weights": out.weights}
    return {**batch, "tokens": out.tokens, **masked}


def leave(batch, keys, progress):
    return batch


@pytest.fixture
def pairs(prepared, tokenizer):
    def make(split="train", **options):
        defaults = {
            "length": 32,
            "batch_size": 8,
            "seed": 5,
            "planner": next_sentence,
            "corruption": corrupt,
            "steps": 100,
            "window_shards": 2,
        }
        return CorpusSource(prepared, split, vocab=Vocab.of(tokenizer), **{**defaults, **options})

    return make


def an_epoch(source, epoch=0):
    for window in range(source.windows):
        for batch in range(source.batches(epoch, window)):
            yield source.batch(Position(epoch, window, batch))


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_the_layout_of_a_batch(pairs):
    batch = pairs().batch(Position())
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        **dict.fromkeys(["tokens", "types", "sequence", "positions"], ((8, 32), "int32")),
        **dict.fromkeys(["first_tokens", "next_labels"], ((8, 1), "int32")),
        **dict.fromkeys(["masked_positions", "masked_targets"], ((8, 6), "int32")),
        "masked_weights": ((8, 6), "float32"),
        "next_weights": ((8, 1), "float32"),
    }
    sizes = batch["sequence"].sum(1)
    for row, size in enumerate(sizes):
        assert batch["sequence"][row].tolist() == [1] * size + [0] * (32 - size)
        assert batch["positions"][row].tolist() == [*range(size)] + [0] * (32 - size)
        assert not batch["tokens"][row, size:].any() and not batch["types"][row, size:].any()
        assert (batch["masked_positions"][row] < size).all()
    assert (batch["next_weights"] == 1).all() and not batch["first_tokens"].any()


def test_masked_targets_restore_the_text(pairs):
    corrupted, plain = pairs().batch(Position(1, 0, 1)), pairs(corruption=leave).batch(Position(1, 0, 1))
    rows, slots = np.nonzero(corrupted["masked_weights"])
    at = corrupted["masked_positions"][rows, slots]
    corrupted["tokens"][rows, at] = corrupted["masked_targets"][rows, slots]
    assert (corrupted["tokens"] == plain["tokens"]).all()


def test_a_batch_depends_on_its_position_alone(pairs):
    source, other = pairs(), pairs()
    positions = [Position(0, 0, 0), Position(1, 1, 1), Position(0, 1, 0), Position(1, 1, 0)]
    first = [source.batch(position) for position in positions]
    again = [other.batch(position) for position in reversed(positions)][::-1]
    copied = [pickle.loads(pickle.dumps(source)).batch(position) for position in positions]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(first, again, copied, strict=True))
    assert not same(first[1], first[3])
    assert not same(first[0], pairs(seed=6).batch(positions[0]))


def test_a_sentence_objective_brings_its_labels_and_others_none(pairs):
    batch = pairs(planner=sentence_order, corruption=leave).batch(Position())
    assert (
        set(batch["next_weights"].ravel().tolist()) <= {0, 1}
        and (batch["types"].max(1) == batch["next_weights"][:, 0]).all()
    )
    for planner in (full_sentences, doc_sentences, segments):
        batch = pairs(planner=planner).batch(Position())
        assert not batch["types"].any() and not {"next_labels", "next_weights"} & batch.keys()
        assert batch["first_tokens"].shape == (8, 1) and (batch["tokens"][:, 0] == 2).all()


def sequences_of(batches):
    """(tokens, types, label) of every sequence of the batches."""
    for batch in batches:
        for row, sequence in enumerate(batch["sequence"]):
            for number in range(1, sequence.max() + 1):
                places = np.flatnonzero(sequence == number)
                assert (batch["positions"][row, places] == np.arange(len(places))).all()
                assert batch["first_tokens"][row, number - 1] == places[0]
                assert (np.diff(places) == 1).all() and batch["next_weights"][row, number - 1] == 1
                label = int(batch["next_labels"][row, number - 1])
                yield batch["tokens"][row, places].tobytes(), batch["types"][row, places].tobytes(), label


def test_packed_rows_hold_the_sequences_of_unpacked_ones(pairs):
    options = {"length": 48, "corruption": leave, "batch_size": 1, "window_shards": 100}
    plain, packed = (list(an_epoch(pairs(packing=packing, **options))) for packing in (False, True))
    assert sorted(sequences_of(packed)) == sorted(sequences_of(plain))
    assert len(packed) < 0.95 * len(plain)
    shapes = {name: array.shape for name, array in packed[0].items()}
    assert shapes["first_tokens"] == shapes["next_labels"] == shapes["next_weights"] == (1, 6)
    for batch in packed:
        unused = batch["next_weights"] == 0
        assert unused.sum() == 6 - batch["sequence"].max()
        assert not batch["first_tokens"][unused].any() and not batch["next_labels"][unused].any()


def test_packed_rows_are_masked_as_one(pairs):
    for batch in an_epoch(pairs(packing=True, length=64)):
        used = batch["masked_weights"].sum(1)
        assert (used == np.minimum(6, np.round(batch["sequence"].astype(bool).sum(1) * 0.15))).all()


def test_packed_rows_are_planned_anew_each_epoch_as_a_function_of_the_position(pairs):
    source = pairs(packing=True)
    positions = [Position(0, 0, 1), Position(1, 0, 1), Position(0, 1, 0)]
    first = [source.batch(position) for position in positions]
    assert all(same(a, pairs(packing=True).batch(at)) for a, at in zip(first, positions, strict=True))
    assert not same(first[0], first[1]) and not same(first[0], pairs(packing=True, seed=6).batch(positions[0]))


def test_corruption_hears_how_far_the_training_is(pairs):
    def mark(batch, keys, progress):
        return {**batch, "progress": np.float32(progress)}

    source = pairs(corruption=mark, steps=8)
    for step, progress in ((0, 0), (2, 0.25), (8, 1), (99, 1)):
        assert source.batch(Position(0, 0, 0, step))["progress"] == progress


def test_epochs_differ_and_each_covers_the_text(pairs, prepared):
    meta = Meta.load(prepared)
    total = meta.total("train", "tokens")
    for epoch in (0, 1):
        batches = list(an_epoch(pairs(corruption=leave), epoch))
        rows = sum(len(batch["tokens"]) for batch in batches)
        assert 0.7 * total < sum(batch["sequence"].sum() for batch in batches) - 3 * rows < 1.6 * total
    first, second = (np.concatenate([b["tokens"] for b in an_epoch(pairs(), epoch)]) for epoch in (0, 1))
    assert not np.array_equal(first[:8], second[:8])


def test_windows_hold_every_shard_once_in_another_order_each_epoch(pairs):
    source = pairs()
    orders = []
    for epoch in (0, 1):
        seen = []
        for window in range(source.windows):
            loaded = source._load(epoch, window)
            seen.append(len(loaded.text))
        assert sum(seen) == sum(len(read_shard(path).tokens) for path in source.paths)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_generators_of_different_counters_differ():
    # numpy takes (1, 2) and (1, 2, 0) for the same seed; purposes keep them apart.
    draws = {generator(purpose, 7, *rest).random() for purpose in (1, 2, 3) for rest in ((1,), (1, 2))}
    assert len(draws) == 6


def test_pair_source_errors(pairs, prepared, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="has no 'test' documents"):
        pairs("test")
    with pytest.raises(ConfigError, match=r"do not fill one batch of 512 rows.*lower the batch size"):
        pairs("valid", batch_size=512)
    with pytest.raises(ConfigError, match="length=5 is too short"):
        pairs(length=5)
    with pytest.raises(ConfigError, match="tokenised with"):
        CorpusSource(
            prepared,
            "train",
            length=32,
            batch_size=8,
            seed=0,
            vocab=Vocab(9, 0, 1, 2, 3, 4),
            planner=next_sentence,
            corruption=leave,
            steps=1,
        )
