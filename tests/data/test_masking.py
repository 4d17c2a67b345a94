import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bertjax.data.masking import Masked, Masking, Vocab, mask_tokens
from bertjax.errors import ConfigError

SIZE = 30_000
VOCAB = Vocab(size=SIZE, pad=0, unk=1, cls=2, sep=3, mask=4, starts_word=np.arange(SIZE) % 4 > 0)
KINDS = ("token", "word", "ngram", "span")
CHANCE = 1e-4  # of a test that is right to fail; the generators are seeded, so it fails always or never
ROWS = 8_000  # of 128 tokens: a million


def row(size):
    """[CLS] .. [SEP] .. [SEP] of `size` tokens, none of them special but these; a quarter go on with a word."""
    tokens = np.arange(size, dtype=np.int32) + 10
    tokens[[0, size // 2, -1]] = VOCAB.cls, VOCAB.sep, VOCAB.sep
    return tokens


def mask(tokens, key=0, *, slots=20, **options):
    """One row masked."""
    return Masked(*(array[0] for array in masked(tokens[None], np.array([key], np.uint64), slots=slots, **options)))


def masked(tokens, keys, *, slots, progress=0.0, **options):
    real = np.ones(tokens.shape, bool)
    masking = Masking(**options)
    return mask_tokens(tokens, real, keys, vocab=VOCAB, masking=masking, slots=slots, progress=progress)


def masked_rows(count, **options):
    """`count` rows of random words, as they were and masked: tokens, corrupted i32[count, 128], chosen bool."""
    tokens = np.random.default_rng(7).integers(10, SIZE, (count, 128), dtype=np.int32)
    tokens[:, [0, 64, 127]] = VOCAB.cls, VOCAB.sep, VOCAB.sep
    out = masked(tokens, np.arange(count, dtype=np.uint64), slots=Masking(**options).slots(128), **options)
    chosen = np.zeros(tokens.shape, bool)
    rows, slots = np.nonzero(out.weights)
    chosen[rows, out.positions[rows, slots]] = True
    return tokens, out.tokens, chosen


@pytest.mark.parametrize("size, slots, count", [(128, 20, 19), (128, 10, 10), (5, 20, 1), (10, 20, 2), (64, 20, 10)])
def test_counts_slots_and_order(size, slots, count):
    tokens = row(size)
    masked = mask(tokens, slots=slots)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_as_much_is_masked_as_asked_for(kind, rate):
    tokens, _, chosen = masked_rows(ROWS, kind=kind, rate=(rate,))
    counts, wanted = chosen.sum(1), round(128 * rate)
    assert counts.max() == wanted
    assert wanted - 0.15 <= counts.mean(), "only now and then no word fits any more"
    assert not chosen[np.isin(tokens, [VOCAB.cls, VOCAB.sep])].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_is_as_likely_as_any_other(kind):
    chosen = masked_rows(ROWS, kind=kind)[2]
    # One place of each row, so that the draws are independent: those of one span are not.
    place = np.random.default_rng(0).permutation(np.resize(np.delete(np.arange(128), [0, 64, 127]), ROWS))
    bins, hit = place // 16, chosen[np.arange(ROWS), place]
    table = np.stack([np.bincount(bins[hit], minlength=8), np.bincount(bins[~hit], minlength=8)])
    assert stats.chi2_contingency(table).pvalue > CHANCE
    assert stats.binomtest(int(hit.sum()), ROWS, chosen.sum() / (125 * ROWS)).pvalue > CHANCE


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.6, 0.4), (0.5, 0.0)])
def test_the_split_is_that_of_the_config(kind, shares):
    tokens, corrupted, chosen = masked_rows(ROWS, kind=kind, mask_share=shares[0], random_share=shares[1])
    new, old = corrupted[chosen], tokens[chosen]
    counts = np.array([(new == VOCAB.mask).sum(), (new == old).sum()])
    expected = np.array([shares[0], 1 - sum(shares), shares[1]]) * len(new)
    some = expected > 0.5
    observed = np.append(counts, len(new) - counts.sum())
    assert observed[~some].sum() <= 15  # a random token may be the one that was there
    expected *= observed[some].sum() / len(new)
    assert stats.chisquare(observed[some], expected[some]).pvalue > CHANCE
    replaced = new[(new != VOCAB.mask) & (new != old)]
    if shares[1]:  # from the whole vocabulary, special rows too
        assert stats.chisquare(np.bincount(replaced * 30 // SIZE, minlength=30)).pvalue > CHANCE


@pytest.mark.parametrize("kind", KINDS[1:])
def test_words_are_masked_whole(kind):
    tokens, _, chosen = masked_rows(300, kind=kind, rate=(0.3,))
    goes_on = ~VOCAB.starts_word[tokens[:, 1:]] & (tokens[:, :-1] != VOCAB.cls) & (tokens[:, :-1] != VOCAB.sep)
    goes_on &= tokens[:, 1:] != VOCAB.sep
    assert goes_on.mean() == pytest.approx(0.25, abs=0.02)
    assert (chosen[:, 1:] == chosen[:, :-1])[goes_on].all()
    single = masked_rows(300)[2]
    assert not (single[:, 1:] == single[:, :-1])[goes_on].all()


def test_a_span_is_replaced_as_one():
    tokens, corrupted, chosen = masked_rows(1000, kind="span")
    seen = []
    for i in range(len(tokens)):
        spans = np.split(np.flatnonzero(chosen[i]), np.flatnonzero(np.diff(np.flatnonzero(chosen[i])) > 1) + 1)
        for places in spans:
            new, old = corrupted[i, places], tokens[i, places]
            seen.append((len(places), (new == VOCAB.mask).mean(), (new == old).mean()))
    length, masked, kept = np.array(seen).T
    assert (length > 1).mean() > 0.7
    # Spans may touch; few do.
    assert ((masked == 1) | (kept == 1) | (masked + kept == 0)).mean() > 0.9
    assert (masked == 1).mean() == pytest.approx(0.8, abs=0.05)


def test_all_mask():
    out = mask(row(100), slots=80, rate=(0.5,), mask_share=1.0, random_share=0.0)
    assert (out.tokens == VOCAB.mask).sum() == out.weights.sum() == 50


def test_a_schedule_of_rates():
    masking = Masking(rate=(0.3, 0.15))
    assert [masking.rate_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.3, 0.225, 0.15])
    assert masking.slots(128) == Masking(rate=(0.3,)).slots(128) == 39
    three = Masking(rate=(0.1, 0.5, 0.2))
    assert [three.rate_at(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.1, 0.3, 0.5, 0.35, 0.2])
    assert {Masking().rate_at(p) for p in (0.0, 0.37, 1.0)} == {0.15}
    used = [mask(row(128), slots=39, progress=p, rate=(0.3, 0.15)).weights for p in (0.0, 0.5, 1.0)]
    assert [weights.sum() for weights in used] == [38, 29, 19]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_gives_the_same_masks(kind):
    one, two, other = (mask(row(64), key, kind=kind) for key in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one.positions != other.positions).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_candidates(kind):
    out = mask(np.array([2, 3, 3]), kind=kind)
    assert out.weights.sum() == 0


def test_a_word_longer_than_the_budget_is_left_alone():
    tokens = np.array([2, 41, *[44] * 10, 45, 3])
    for seed in range(10):
        out = mask(tokens, seed, kind="word")
        assert out.positions[out.weights > 0].tolist() == [12]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_neither_on_the_others_nor_on_padding(kind):
    tokens = np.random.default_rng(0).integers(10, SIZE, (20, 128), dtype=np.int32)
    tokens[:, 0] = VOCAB.cls
    keys = np.arange(20, dtype=np.uint64)
    real = np.arange(128) < np.arange(20)[:, None] * 6 + 8
    options = {"vocab": VOCAB, "masking": Masking(kind=kind), "slots": 20}
    together = mask_tokens(tokens, real, keys, **options)
    for i in range(20):
        size = real[i].sum()
        alone = mask_tokens(tokens[[i], :size], real[[i], :size], keys[[i]], **options)
        assert (together.tokens[i, :size] == alone.tokens[0]).all()
        assert (together.tokens[i, size:] == tokens[i, size:]).all()
        assert all((a[i] == b[0]).all() for a, b in zip(together[1:], alone[1:], strict=True))


def test_the_default_stream_stays_as_it_is(golden):
    """Runs are resumed and compared across versions: the same seed masks the same tokens for ever."""
    digest = hashlib.sha256()
    for seed in range(50):
        for array in mask(row(40 + seed), seed):
            digest.update(array.tobytes())
    assert digest.hexdigest() == golden("default_masks.json", digest.hexdigest())


def test_vocab_of_a_tokenizer(tokenizer):
    vocab = Vocab.of(tokenizer)
    assert (vocab.size, vocab.mask) == (tokenizer.vocab_size, tokenizer.mask_id)
    copied = pickle.loads(pickle.dumps(vocab))
    assert copied[:-1] == vocab[:-1] and (copied.starts_word == vocab.starts_word).all()
    pieces = {tokenizer.vocabulary[i] for i in np.flatnonzero(~vocab.starts_word)}
    assert pieces == {piece for piece in tokenizer.vocabulary if piece.startswith("##")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": (0.0,)}, "objective.masking.rate=0.0 must lie between 0 and 1"),
        ({"rate": (0.3, 1.0)}, "rate=0.3 1.0 .* BERT's is 0.15"),
        ({"rate": ()}, "rate=nothing"),
        ({"mask_share": 0.9, "random_share": 0.2}, "sum to at most 1"),
        ({"random_share": -0.1}, "sum to at most 1"),
        ({"kind": "spans"}, "objective.masking.kind='spans'.*did you mean 'span'"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(Masking(), **change)
