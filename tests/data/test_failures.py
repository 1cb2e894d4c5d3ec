# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Failures are counted once per recording, named, and end the run where there are too many."""

import warnings

import pytest

from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.data.failures import FailedRecordingWarning, FailureLog, TooManyFailuresError

ERROR = AudioError("a.wav: is empty")


def test_at_a_share_of_zero_the_first_error_is_raised_as_it_is():
    with pytest.raises(AudioError, match="a.wav: is empty"):
        FailureLog(0.0, ["a.wav", "b.wav"]).record(ERROR, index=0)


def test_known_recordings_are_counted_once_and_named():
    log = FailureLog(0.5, ["a.wav", "b.wav", "c.wav", "d.wav"])
    with pytest.warns(FailedRecordingWarning, match="`a.wav` is left out"):
        log.record(ERROR, index=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.record(ERROR, index=0)  # again: nothing new
    with pytest.warns(FailedRecordingWarning):
        log.record(ERROR, index=2)
    assert log.failed == ["a.wav", "c.wav"]
    assert [log.has_failed(index) for index in range(4)] == [True, False, True, False]
    with (
        pytest.warns(FailedRecordingWarning),
        pytest.raises(TooManyFailuresError, match="3 of 4 .* `a.wav`, `c.wav`, `d.wav`"),
    ):
        log.record(ERROR, index=3)


def test_of_a_stream_at_least_a_hundred_recordings_are_the_measure():
    log = FailureLog(0.02)
    log.num_seen = 1
    for name in ("a", "b"):
        with pytest.warns(FailedRecordingWarning):
            log.record(ERROR, name=name)
    assert log.failed == ["a", "b"]
    with pytest.warns(FailedRecordingWarning), pytest.raises(TooManyFailuresError, match="3 of 100"):
        log.record(ERROR, name="c")


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_zero_to_one_is_an_error(share):
    with pytest.raises(ValueError, match="`max_failed_share` must be in"):
        FailureLog(share)
