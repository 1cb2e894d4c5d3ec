# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Latencies by name, settings by key, and what cannot work."""

import pytest

from nemo_sortformer.config import LATENCIES, ConfigError, StreamingConfig
from nemo_sortformer.config.streaming import streaming_settings


@pytest.mark.parametrize("name", LATENCIES)
def test_each_preset_has_the_latency_of_its_name(name):
    config = streaming_settings(None, name)
    assert config.latency_seconds() == pytest.approx(float(name.removesuffix("s")))
    assert config.spkcache_len == 188
    config.check(num_slots=4)


def test_a_preset_changes_the_latency_and_keeps_what_else_the_model_has():
    base = StreamingConfig(spkcache_len=264, sil_threshold=0.3, chunk_len=340)
    config = streaming_settings(base, 0.32)
    assert (config.chunk_len, config.spkcache_len, config.sil_threshold) == (3, 264, 0.3)
    assert streaming_settings(base, "0.32") == streaming_settings(base, " 0.32s") == config
    assert streaming_settings(base) is base
    assert streaming_settings(None) == streaming_settings(None, "1.04s")
    assert streaming_settings(base, {"chunk_len": 9}).chunk_len == 9
    assert streaming_settings(None, base) is base


@pytest.mark.parametrize(
    "latency, message",
    [
        ("2s", "`latency` must be one of `30.4s`"),
        ("fast", "but is `fast`"),
        ({"chunk_length": 3}, "Did you mean `chunk_len`"),
        ({"chunk_len": 0}, "at least 1 frame"),
        ({"fifo_len": -1}, "`fifo_len` must be at least 0"),
        ({"pred_score_threshold": 0.0}, "`pred_score_threshold` must be in"),
    ],
)
def test_settings_that_cannot_work_are_refused(latency, message):
    with pytest.raises(ConfigError, match=message):
        streaming_settings(None, latency)


def test_a_cache_must_have_room_for_each_speaker_or_be_none():
    StreamingConfig(spkcache_len=0).check(num_slots=4)
    StreamingConfig(spkcache_len=16).check(num_slots=4)
    with pytest.raises(ConfigError, match="`spkcache_len` must be at least 16.*Give it more, or 0"):
        StreamingConfig(spkcache_len=15).check(num_slots=4)
