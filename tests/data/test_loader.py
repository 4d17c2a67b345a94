import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from bertjax.data.examples import ExampleSource
from bertjax.data.loader import Loader
from bertjax.data.masking import Masking, Vocab, mask_tokens
from bertjax.data.mixture import Mixture
from bertjax.data.plan import next_sentence
from bertjax.data.sources import CorpusSource, Position
from bertjax.errors import AGAIN, ConfigError, StorageError, UserError


def corrupt(batch, keys, progress):
    vocab = Vocab(50, 0, 1, 2, 3, 4)
    out = mask_tokens(batch["tokens"], batch["sequence"] > 0, keys, vocab=vocab, masking=Masking(), slots=6)
    return {**batch, "tokens": out.tokens, "masked_positions": out.positions}


@pytest.fixture(params=[False, True], ids=["one sequence a row", "packed"])
def source(request, prepared, tokenizer):
    return Mixture((corpus(prepared, tokenizer, packing=request.param),))


def corpus(prepared, tokenizer, **options):
    defaults = {"length": 24, "batch_size": 12, "seed": 5, "steps": 100, "window_shards": 2}
    return CorpusSource(
        prepared,
        "train",
        vocab=Vocab.of(tokenizer),
        planner=next_sentence,
        corruption=corrupt,
        **{**defaults, **options},
    )


def take(loader, count):
    """`count` batches as bytes, and the position after each."""
    out = []
    for _ in range(count):
        batch = next(loader)
        out.append((b"".join(batch[name].tobytes() for name in sorted(batch)), loader.places))
    loader.close()
    return out


def in_order(mixture, epochs):
    source = mixture.sources[0]
    places = [
        (epoch, window, batch)
        for epoch in range(epochs)
        for window in range(source.windows)
        for batch in range(source.batches(epoch, window))
    ]
    return [(Position(*place, step),) for step, place in enumerate(places)]


def test_the_stream_is_the_same_with_any_number_of_workers(source):
    order = in_order(source, 2)
    count = len(order) - 3
    expected = take(Loader(source), count)
    plain = [source.batch(position) for position in order[:count]]
    assert [bytes_ for bytes_, _ in expected] == [b"".join(b[name].tobytes() for name in sorted(b)) for b in plain]
    for workers in (1, 2):
        assert take(Loader(source, workers=workers), count) == expected


def test_restart_from_any_position(source):
    stream = take(Loader(source), len(in_order(source, 2)) + 4)
    for start in range(0, len(stream) - 5, 3):
        assert take(Loader(source, stream[start][1]), 3) == stream[start + 1 : start + 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_restart_in_the_second_epoch_with_workers(source, workers):
    stream = take(Loader(source), len(in_order(source, 1)) + 8)
    start = len(stream) - 5
    assert stream[start][1][0].epoch == 1
    assert take(Loader(source, stream[start][1], workers=workers), 4) == stream[start + 1 :]


def together(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("hosts", [3])
def test_hosts_share_every_batch_whatever_their_number(source, hosts):
    rows = np.array_split(np.arange(12), hosts)
    alone = Loader(source)
    first = [Loader(source, rows=own) for own in rows]
    for _ in range(5):
        whole, shared = next(alone), together([next(loader) for loader in first])
        assert all((whole[name] == shared[name]).all() for name in whole)
    places = {loader.places for loader in first}
    assert places == {alone.places}
    # They go on as other hosts, another number of them.
    second = [Loader(source, alone.places, rows=own, workers=1) for own in np.array_split(np.arange(12), 2)]
    whole, shared = next(alone), together([next(loader) for loader in second])
    assert all((whole[name] == shared[name]).all() for name in whole)
    for loader in [alone, *first, *second]:
        loader.close()


@pytest.mark.parametrize("step", [10, 100_000])
def test_a_restart_costs_the_same_wherever_it_is(source, step, monkeypatch):
    """Of work, not of time: one window is read and planned, however many came before."""
    (corpus,) = source.sources
    epoch, window = divmod(step // 4, corpus.windows)
    read = []
    plan = CorpusSource._plan
    monkeypatch.setattr(CorpusSource, "_plan", lambda self, *at: read.append(at) or plan(self, *at))
    loader = Loader(source, (Position(epoch, window, 1, step),))
    next(loader)
    loader.close()
    # The thread that makes batches ahead may have reached the next window.
    assert read[0] == (epoch, window) and len(read) <= 2


def test_positions_follow_the_order(source):
    order = in_order(source, 2)
    loader = Loader(source, epochs=2)
    assert loader.places == order[0]
    # At the end of a window the position may name the next window, which in this data always has batches.
    assert [places for _, places in take(loader, len(order))] == [*order[1:], (Position(2, 0, 0, len(order)),)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_ends_after_its_epochs(workers):
    rows = [{"tokens": np.array([i]), "types": np.array([0]), "label": i} for i in range(5)]
    data = ExampleSource(rows, batch_size=2, length=4, pad=0, shuffle=False, drop_last=False)
    loader = Loader(Mixture((data,)), workers=workers, epochs=2)
    labels = [batch["labels"].tolist() for batch in loader]
    assert labels == [[0, 1], [2, 3], [4, 0]] * 2
    assert loader.places == (Position(2, 0, 0, 6),)
    assert list(loader) == []
    loader.close()


class Uneven:
    """Windows of 2, 0 and 1 batches."""

    windows, batch_size = 3, 1

    def batches(self, epoch, window):
        return (2, 0, 1)[window]

    def batch(self, position, rows=None):
        return {"at": np.array(position)}


class Nothing(Uneven):
    def batches(self, epoch, window):
        return 0


def test_empty_windows_are_passed_over():
    places = [tuple(batch["at"]) for batch in Loader(Mixture((Uneven(),)), epochs=2)]
    assert places == [(0, 0, 0, 0), (0, 0, 1, 1), (0, 2, 0, 2), (1, 0, 0, 3), (1, 0, 1, 4), (1, 2, 0, 5)]
    late = Loader(Mixture((Uneven(),)), (Position(0, 1, 0, 2),), epochs=1)
    assert [tuple(batch["at"]) for batch in late] == [(0, 2, 0, 2)]
    beyond = Loader(Mixture((Uneven(),)), (Position(0, 0, 7),), epochs=1)
    assert [tuple(batch["at"]) for batch in beyond] == [(0, 2, 0, 0)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_batches_is_the_users_error(workers):
    loader = Loader(Mixture((Nothing(),)), workers=workers)
    with pytest.raises(ConfigError, match="does not fill one batch"):
        next(loader)
    loader.close()


class Kills(Uneven):
    """Its process."""

    def __init__(self, number):
        self.number = number

    def batch(self, position, rows=None):
        if position.step == 2:
            os.kill(os.getpid(), self.number)
        return super().batch(position, rows)


class Full(Uneven):
    """What a worker meets that makes shared memory where there is no room."""

    def batch(self, position, rows=None):
        raise OSError(errno.ENOSPC, "No space left on device", "/psm_0123abcd")


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        (Kills(signal.SIGKILL), AGAIN, "a worker process died.*[Ff]ewer --workers"),
        (Kills(signal.SIGBUS), StorageError.code, "/dev/shm is full.*--workers 0"),  # a write where there is no room
        (Full(), StorageError.code, "/dev/shm is full.*--workers 0"),
    ],
)
def test_what_befalls_workers_is_told_with_the_cure(source, code, message):
    loader = Loader(Mixture((source,)), workers=2)
    with pytest.raises(UserError, match=message) as raised:
        list(loader)
    loader.close()
    assert raised.value.code == code


def test_no_room_for_the_locks_of_workers(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("_multiprocessing.SemLock", full)
    with pytest.raises(StorageError, match="/dev/shm is full"):
        next(Loader(Mixture((Uneven(),)), workers=1))


def test_a_disk_that_is_full_is_not_the_memory_of_workers():
    loader = Loader(Mixture((Full(),)))
    with pytest.raises(OSError, match="psm_0123abcd"):
        next(loader)
    loader.close()


def test_batches_are_plain_arrays_of_their_own(source):
    loader = Loader(source, workers=1)
    first = next(loader)
    before = first["tokens"].copy()
    next(loader)
    loader.close()
    assert type(first["tokens"]) is np.ndarray
    assert (first["tokens"] == before).all()


def test_an_unclosed_loader_leaves_quietly():
    code = (
        "import numpy as np\n"
        "from bertjax.data.loader import Loader\n"
        "from bertjax.data.examples import ExampleSource\n"
        "from bertjax.data.mixture import Mixture\n"
        "if __name__ == '__main__':\n"
        "    rows = [{'tokens': np.array([1]), 'types': np.array([0])}] * 9\n"
        "    data = ExampleSource(rows, batch_size=2, length=4, pad=0, shuffle=False, drop_last=False)\n"
        "    loader = Loader(Mixture((data,)))\n"
        "    next(loader)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_data_imports_neither_jax_nor_flax():
    code = (
        "import sys\n"
        "from bertjax.data import corpus, loader, masking, plan, shards, sources, tokenizer\n"
        "print(sorted({'jax', 'jaxlib', 'flax', 'grain'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
