# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Windows of longer things: they cover all of it, and bad entries are passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.failures import FailedRecordingWarning, FailureLog
from nemo_sortformer.data.windowed_dataset import WindowedDataset, windows_in_a_row


class Letters(WindowedDataset):
    """Windows of two letters of words; a word with a digit cannot be read."""

    def __init__(self, *words):
        self.words = words
        super().__init__(len(words), FailureLog(0.5, list(words), what="words"), training=False, seed=0)

    def _cut(self, entry_index):
        return windows_in_a_row(len(self.words[entry_index]), 2, shortest_tail=0)

    def _read(self, index, entry_index, start, length):
        if not self.words[entry_index].isalpha():
            raise OSError("a digit")
        return self.words[entry_index][start : start + length]


@given(st.integers(2, 500), st.integers(1, 60), st.integers(0, 5))
def test_windows_cover_all_once_and_only_the_last_differs(total, limit, tail):
    windows = windows_in_a_row(total, limit, shortest_tail=tail)
    ends = [start + length for start, length in windows]
    assert windows[0][0] == 0
    assert ends[-1] == total
    assert [start for start, _ in windows[1:]] == ends[:-1]
    assert all(length == limit for _, length in windows[:-1])
    assert len(windows) == 1 or tail < windows[-1][1] <= limit + tail


def test_a_bad_entry_is_replaced_by_the_next_good_one():
    data = Letters("abcd", "x1", "ef")
    assert len(data) == 4
    with pytest.warns(FailedRecordingWarning, match="x1"):
        assert [data[index] for index in range(4)] == ["ab", "cd", "ef", "ef"]
    assert data.failures.failed == ["x1"]
    assert data[-1] == "ef"
    with pytest.raises(IndexError, match="must be less than 4"):
        data[4]
