import numpy as np
import pytest

from bertjax.data.loader import Loader
from bertjax.data.mixture import Mixture, shares
from bertjax.data.sources import Position
from bertjax.errors import ConfigError


class Numbers:
    """Counts up, so many rows a batch, so many batches an epoch."""

    windows = 1

    def __init__(self, name, batch_size, batches):
        self.name, self.batch_size, self._batches = name, batch_size, batches

    def batches(self, epoch, window):
        return self._batches

    def batch(self, position, rows=None):
        rows = np.arange(self.batch_size) if rows is None else rows
        return {"at": np.array([[self.name, position.epoch, position.batch * self.batch_size + row] for row in rows])}


@pytest.fixture
def mixture():
    return Mixture((Numbers(0, 3, 4), Numbers(1, 1, 2)))


def test_every_batch_has_its_rows_of_each_source_and_each_has_its_own_epochs(mixture):
    loader = Loader(mixture)
    batches = np.stack([next(loader)["at"] for _ in range(8)])
    loader.close()
    assert mixture.batch_size == 4 and (batches[:, :, 0] == [0, 0, 0, 1]).all()
    first, second = batches[:, :3, 1:].reshape(-1, 2), batches[:, 3, 1:]
    assert first.tolist() == [[epoch, row] for epoch in range(2) for row in range(12)]
    assert second.tolist() == [[epoch, row] for epoch in range(4) for row in range(2)]
    assert loader.places == (Position(2, 0, 0, 8), Position(4, 0, 0, 8))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_goes_on_in_every_source(mixture, workers):
    first = Loader(mixture)
    for _ in range(3):
        next(first)
    second = Loader(mixture, first.places, workers=workers)
    for _ in range(4):
        assert (next(first)["at"] == next(second)["at"]).all()
    first.close(), second.close()


def test_hosts_have_rows_of_whatever_source(mixture):
    places = mixture.start(7)
    whole = mixture.batch(places)["at"]
    for rows in ([0, 1], [2, 3], [3], [0, 3]):
        assert (mixture.batch(places, np.array(rows))["at"] == whole[rows]).all()


def test_the_stream_ends_with_the_first_source_that_does(mixture):
    assert len(list(Loader(mixture, epochs=1))) == 2


@pytest.mark.parametrize(
    ("weights", "batch_size", "rows"),
    [
        ([7, 3], 10, [7, 3]),
        ([0.5], 8, [8]),
        ([1, 1, 1], 8, [3, 3, 2]),
        ([0.7, 0.3], 16, [11, 5]),
        ([99, 1], 64, [63, 1]),
    ],
)
def test_shares(weights, batch_size, rows):
    assert shares(weights, batch_size) == rows


def test_a_source_without_a_row():
    with pytest.raises(ConfigError, match="weights 99 1 leave a folder of data without a row in a batch of 8"):
        shares([99, 1], 8)
