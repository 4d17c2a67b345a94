"""Windows over texts that are longer than a row."""

import pytest

from bertjax.tasks._windows import most_context, windows


@pytest.mark.parametrize(
    ("count", "room", "stride", "expected"),
    [
        (0, 10, 4, [(0, 0)]),
        (10, 10, 4, [(0, 10)]),
        (11, 10, 4, [(0, 10), (4, 11)]),
        (14, 10, 4, [(0, 10), (4, 14)]),
        (15, 10, 4, [(0, 10), (4, 14), (8, 15)]),
        (15, 10, 128, [(0, 10), (5, 15)]),  # half a window where the stride leaves gaps or next to no overlap
        (3, 1, 128, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows(count, room, stride, expected):
    assert windows(count, room=room, stride=stride) == expected


def test_each_token_is_seen_where_it_has_most_around_it():
    found = windows(15, room=10, stride=4)
    # token 5: min(5, 4) in the first, min(1, 8) in the second; token 7: 2 in the first, 3 in the second, none
    assert most_context(found, 15).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_a_million_tokens_take_little():
    found = windows(1_000_000, room=300, stride=128)
    best = most_context(found, 1_000_000)
    assert len(found) == best[-1] + 1 == 7812 and (best[1:] >= best[:-1]).all()


def test_the_longer_window_wins_a_draw():
    assert most_context([(0, 3), (2, 9)], 9)[2] == 1
