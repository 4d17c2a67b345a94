"""What is planned without data has the shapes of what comes from it."""

import numpy as np
import pytest

from bertjax.data.masking import Masking, Vocab
from bertjax.data.meta import Meta
from bertjax.data.shapes import made_up_row, made_up_vocab
from bertjax.data.sources import CorpusSource, Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.objectives import mlm


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("examples", mlm.PLANNERS)
@pytest.mark.parametrize("masking", [Masking(), Masking(kind="span", rate=(0.3, 0.15))], ids=["token", "span"])
def test_a_made_up_row_has_the_arrays_of_a_real_one(prepared, examples, packing, masking):
    objective, length = mlm.Config(examples=examples, masking=masking), 40
    vocab = Vocab.of(Tokenizer.load(prepared / "tokenizer"))
    assert Meta.load(prepared).vocab_size == vocab.size
    parts = {"planner": objective.planner(), "length": length, "packing": packing}
    source = CorpusSource(
        prepared, "train", batch_size=2, seed=0, vocab=vocab, corruption=objective.corruption(vocab, length),
        steps=1, **parts,
    )  # fmt: skip
    real = source.batch(Position())
    unknown = made_up_vocab(vocab.size)
    made = made_up_row(vocab=unknown, corruption=objective.corruption(unknown, length), **parts)
    about = {name: (value.dtype, value.shape[1:]) for name, value in real.items()}
    assert {name: (value.dtype, value.shape[1:]) for name, value in made.items()} == about
    assert {len(value) for value in made.values()} == {1}
    assert np.count_nonzero(made["masked_weights"])  # the row does have text


@pytest.mark.parametrize("length", [8, 9, 128, 512])
def test_any_length_that_a_run_takes(length):
    objective, vocab = mlm.Config(), made_up_vocab(30)
    corruption = objective.corruption(vocab, length)
    row = made_up_row(planner=objective.planner(), corruption=corruption, vocab=vocab, length=length, packing=True)
    assert row["tokens"].shape == (1, length) and row["first_tokens"].shape == (1, max(1, length // 8))
