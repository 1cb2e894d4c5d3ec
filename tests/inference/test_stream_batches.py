# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Many streams side by side: each as if alone, whenever it came; none hears another."""

import numpy as np
import pytest

from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.inference.stream import BatchedStreamer, Streamer, StreamError, stream

LATENCY = {"chunk_len": 5, "chunk_right_context": 3, "fifo_len": 20, "spkcache_len": 24, "spkcache_update_period": 12}
WAYS = {"heads": {"latency": LATENCY}, "voices": {"latency": LATENCY, "override_config": {"assignment": "clustering"}}}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("max_batch", [2, 64])
def test_streams_of_different_age_are_each_as_if_alone(tiny_model, make_audio, options, max_batch):
    recordings = {f"call {k}": make_audio(4.0 + k, seed=k) for k in range(4)}
    begins = {name: 17_000 * k for k, name in enumerate(recordings)}
    streamer = BatchedStreamer(tiny_model, max_batch=max_batch, **options)
    found = {name: [] for name in recordings}
    for now in range(0, 180_000, 9_000):
        pieces = {
            name: samples[max(now - begins[name], 0) : max(now + 9_000 - begins[name], 0)]
            for name, samples in recordings.items()
            if now + 9_000 > begins[name] and now - begins[name] < len(samples)
        }
        for name, updates in streamer.push(pieces).items():
            found[name] += updates
        for name in set(streamer.streams) - set(pieces):
            found[name] += streamer.finish(name)
    assert streamer.streams == ()
    for name, samples in recordings.items():
        alone = list(stream(tiny_model, [samples], **options))
        expected = np.concatenate([update.probs for update in alone])
        got = np.concatenate([update.probs for update in found[name]])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
        assert [u.finished for u in found[name] if u.finished] == [u.finished for u in alone if u.finished]


def test_a_bad_piece_stops_none_of_the_streams(tiny_model, make_audio):
    streamer = BatchedStreamer(tiny_model, latency=LATENCY)
    audio = make_audio(3.0)
    streamer.push({"a": audio, "b": audio})
    before = {name: streamer.state(name) for name in "ab"}
    with pytest.raises(AudioError, match="NaN"):
        streamer.push({"a": audio, "b": np.full(9, np.nan)})
    assert {name: streamer.state(name) for name in "ab"} == before
    assert "c" not in streamer.streams


def test_a_stream_leaves_a_batch_and_goes_on_alone(tiny_model, make_audio):
    audio = make_audio(6.0)
    streamer = BatchedStreamer(tiny_model, latency=LATENCY)
    found = streamer.push({"a": audio[:50_000], "b": audio[:20_000]})["a"]
    alone = Streamer(tiny_model, state=streamer.close("a"))
    found += [*alone.push(audio[50_000:]), *alone.finish()]
    expected = list(stream(tiny_model, [audio], latency=LATENCY))
    np.testing.assert_allclose(
        np.concatenate([update.probs for update in found]),
        np.concatenate([update.probs for update in expected]),
        rtol=0,
        atol=1e-5,
    )
    assert streamer.streams == ("b",)


def test_states_of_other_settings_or_names_in_use_are_refused(tiny_model):
    streamer = BatchedStreamer(tiny_model, latency=LATENCY)
    streamer.open("a", sample_rate=8000)
    with pytest.raises(StreamError, match="`a` is open already"):
        streamer.open("a")
    other = BatchedStreamer(tiny_model, latency="0.32s")
    with pytest.raises(StreamError, match="latency=state.config"):
        other.open("a", state=streamer.state("a"))
    with pytest.raises(StreamError, match="at 8000 Hz, not at 16000 Hz"):
        streamer.open("b", sample_rate=16000, state=streamer.state("a"))
    with pytest.raises(StreamError, match="no open stream `z`"):
        streamer.finish("z")
