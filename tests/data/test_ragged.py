import numpy as np

from bertjax.data.ragged import join_bounds, ranges


def test_ranges():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(0, np.array([2, 3])).tolist() == [0, 1, 0, 1, 2]
    assert ranges(np.array([], int), np.array([], int)).tolist() == []


def test_join_bounds():
    assert join_bounds([np.array([0, 2, 3]), np.array([0]), np.array([0, 4])]).tolist() == [0, 2, 3, 7]
