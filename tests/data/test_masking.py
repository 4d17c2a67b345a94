import pickle

import numpy as np
import pytest

from bertjax.data.masking import Vocab, mask_tokens

VOCAB = Vocab(size=1000, pad=0, unk=1, cls=2, sep=3, mask=4)


def row(size):
    """[CLS] .. [SEP] .. [SEP] of `size` tokens, none of them special but these."""
    tokens = np.arange(size, dtype=np.int32) + 10
    tokens[[0, size // 2, -1]] = VOCAB.cls, VOCAB.sep, VOCAB.sep
    return tokens


@pytest.mark.parametrize("size, slots, count", [(128, 20, 19), (128, 10, 10), (5, 20, 1), (10, 20, 2), (64, 20, 10)])
def test_counts_slots_and_order(size, slots, count):
    tokens = row(size)
    masked = mask_tokens(tokens, np.random.default_rng(0), vocab=VOCAB, slots=slots)
    assert masked.positions.shape == masked.targets.shape == masked.weights.shape == (slots,)
    assert [array.dtype for array in masked] == [np.int32, np.int32, np.int32, np.float32]
    assert masked.weights.tolist() == [1] * count + [0] * (slots - count)
    chosen = masked.positions[:count]
    assert (np.diff(chosen) > 0).all()
    assert (masked.targets[:count] == tokens[chosen]).all()
    assert not masked.positions[count:].any() and not masked.targets[count:].any()
    untouched = np.setdiff1d(np.arange(size), chosen)
    assert (masked.tokens[untouched] == tokens[untouched]).all()
    assert (tokens == row(size)).all()


def test_shares_and_places_over_many_rows():
    tokens, size = row(128), 128
    rng = np.random.default_rng(0)
    places = np.zeros(size)
    kept = masked = replaced = 0
    replacements = []
    for _ in range(2000):
        out = mask_tokens(tokens, rng, vocab=VOCAB, slots=20)
        chosen = out.positions[out.weights > 0]
        places[chosen] += 1
        new = out.tokens[chosen]
        masked += (new == VOCAB.mask).sum()
        kept += (new == tokens[chosen]).sum()
        other = new[(new != VOCAB.mask) & (new != tokens[chosen])]
        replaced += len(other)
        replacements.extend(other)
    total = places.sum()
    assert total == 2000 * 19
    assert masked / total == pytest.approx(0.8, abs=0.01)
    assert kept / total == pytest.approx(0.1, abs=0.01)
    assert replaced / total == pytest.approx(0.1, abs=0.01)
    assert not places[[0, 64, 127]].any()
    free = np.delete(places, [0, 64, 127])
    assert np.abs(free / (total / 125) - 1).max() < 0.25  # 304 a place, standard deviation 16
    assert min(replacements) < 10 and max(replacements) > 990  # from the whole vocabulary, special rows too


def test_shares_can_be_chosen():
    out = mask_tokens(row(100), np.random.default_rng(0), vocab=VOCAB, slots=80, rate=0.5, mask_share=1, random_share=0)
    assert (out.tokens == VOCAB.mask).sum() == out.weights.sum() == 50


def test_the_same_generator_gives_the_same_masks():
    one, two, other = (mask_tokens(row(64), np.random.default_rng(s), vocab=VOCAB, slots=20) for s in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one.positions != other.positions).any()


def test_a_row_without_candidates():
    out = mask_tokens(np.array([2, 3, 3]), np.random.default_rng(0), vocab=VOCAB, slots=4)
    assert out.weights.sum() == 0


def test_vocab_of_a_tokenizer(tokenizer):
    vocab = Vocab.of(tokenizer)
    assert (vocab.size, vocab.mask) == (tokenizer.vocab_size, tokenizer.mask_id)
    assert pickle.loads(pickle.dumps(vocab)) == vocab
