import numpy as np
import pytest

from gen1.times import join, nearest, pairs_within


@pytest.mark.parametrize(
    ("times", "others", "reach", "joined"),
    [
        ([], [0, 10], 5, []),
        ([7], [], 5, [-1]),
        ([0, 10, 20], [0, 10, 20], 0, [0, 1, 2]),
        ([1, 11], [0, 10], 0, [-1, -1]),
        ([249_999, 499_999], [200_000, 250_000, 300_000, 500_000], 25_000, [1, 3]),
        ([25], [0, 50], 25, [0]),  # as near to both: the earlier
        ([25, 24], [0, 50], 24, [-1, 0]),
        ([9, 11], [10], 5, [0, -1]),  # as near: the earlier
        ([8, 11], [10], 5, [-1, 0]),
        ([3, 8, 13], [10, 20], 5, [-1, 0, -1]),
        ([24, 26], [25, 75], 50, [0, 1]),  # the second takes what is still free
    ],
)
def test_each_time_is_joined_once_to_the_nearest(times, others, reach, joined):
    times_us, others_us = np.array(times, np.int64), np.array(others, np.int64)
    assert join(times_us, others_us, reach).tolist() == joined


def test_the_nearest_time_is_found():
    times_us = np.array([-5, 0, 4, 5, 6, 100])
    assert nearest(times_us, np.array([0, 10])).tolist() == [0, 0, 0, 0, 1, 1]
    assert nearest(times_us, np.array([3])).tolist() == [0] * 6


def test_pairs_include_both_ends():
    pairs = pairs_within(np.array([10, 20]), np.array([5, 10, 15, 26]), 5)
    assert [part.tolist() for part in pairs] == [[0, 0, 0, 1], [0, 1, 2, 2]]
