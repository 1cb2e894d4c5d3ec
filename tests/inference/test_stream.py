# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One stream: the pieces do not show, the segments are those of the probabilities, and bad input costs only itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.functional.segments import active_segments
from nemo_sortformer.inference.stream import Streamer, StreamError, StreamState, stream

LATENCY = {"chunk_len": 5, "chunk_right_context": 3, "fifo_len": 20, "spkcache_len": 24, "spkcache_update_period": 12}
by_heads = {"latency": LATENCY}
by_voices = {"latency": LATENCY, "override_config": {"assignment": "clustering"}}
ways = pytest.mark.parametrize("options", [by_heads, by_voices], ids=["heads", "voices"])


def all_probs(updates):
    return np.concatenate([update.probs for update in updates])


def all_segments(updates):
    return sorted(segment for update in updates for segment in update.finished)


def cut(samples, sizes):
    """Pieces of these sizes, and the rest."""
    places = np.cumsum(sizes)
    return np.split(samples, places[places < len(samples)])


@pytest.fixture(scope="module")
def speech(make_audio):
    return make_audio(9.0, seed=3)


@pytest.fixture(scope="module", params=[by_heads, by_voices], ids=["heads", "voices"])
def whole(request, tiny_model, speech):
    """A way of naming speakers, and what it says when all of the audio comes at once."""
    return request.param, list(stream(tiny_model, [speech], **request.param))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 159, 160, 161, 1000, 20_000, 100_000]), min_size=1, max_size=30))
def test_pieces_do_not_show(whole, tiny_model, speech, sizes):
    options, expected = whole
    updates = list(stream(tiny_model, cut(speech, sizes), **options))
    assert len(updates) == len(expected)
    np.testing.assert_allclose(all_probs(updates), all_probs(expected), rtol=0, atol=1e-5)
    assert all_segments(updates) == all_segments(expected)


def test_sample_by_sample(tiny_model, speech):
    audio = speech[:9_000]
    expected = all_probs(stream(tiny_model, [audio], **by_heads))
    found = all_probs(stream(tiny_model, (audio[i : i + 1] for i in range(len(audio))), **by_heads))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_segments_are_those_of_the_probabilities(whole, tiny_model, speech):
    options, updates = whole
    assert len(all_segments(updates)) >= (4 if options is by_heads else 1)
    assert [update.is_last for update in updates] == [False] * (len(updates) - 1) + [True]
    assert updates[-1].changed == ()
    assert updates[-1].seconds == pytest.approx(len(speech) / 16000)
    assert sum(len(update.probs) for update in updates) == -(-(len(speech) // 160) // 8)
    for before, after in zip(updates, updates[1:], strict=False):
        assert after.first_frame == before.first_frame + len(before.probs)
        assert after.start == pytest.approx(before.seconds)
    if options is by_heads:  # by voices a frame may be judged again before it is settled
        expected = active_segments(all_probs(updates), frame_seconds=0.08, max_seconds=len(speech) / 16000)
        found = all_segments(updates)
        for slot, spans in enumerate(expected):
            own = [(segment.start, segment.end) for segment in found if segment.speaker == f"speaker_{slot}"]
            np.testing.assert_allclose(own, spans.reshape(-1, 2), atol=1e-3)


def test_an_update_as_plain_values(tiny_model, speech):
    import json

    update = next(iter(stream(tiny_model, [speech], **by_heads)))
    plain = json.loads(json.dumps(update.to_dict()))
    assert plain["start"] == 0
    assert plain["seconds"] == pytest.approx(0.4)
    assert np.shape(plain["probs"]) == (5, 4)
    assert set(plain["speaking"]) <= {f"speaker_{k}" for k in range(4)}
    assert all(len(segment) == 3 for segment in plain["changed"])


@pytest.mark.parametrize(
    "chunks",
    [
        lambda audio: [torch.from_numpy(audio)],
        lambda audio: audio,
        lambda audio: [np.stack([audio, audio], axis=1)],
        lambda audio: [audio.astype(np.float64)],
    ],
    ids=["tensor", "one array", "two channels", "float64"],
)
def test_audio_in_any_form(tiny_model, speech, chunks):
    audio = speech[:20_000]
    expected = all_probs(stream(tiny_model, [audio], **by_heads))
    np.testing.assert_allclose(all_probs(stream(tiny_model, chunks(audio), **by_heads)), expected, rtol=0, atol=1e-5)


def test_16_bit_pcm_cut_anywhere_is_the_same_as_integers_and_as_the_file(tiny_model, speech, tmp_path):
    audio = np.round(speech[:30_000] * 32767).astype("<i2")
    data = audio.tobytes()
    pieces = [data[i : i + 1111] for i in range(0, len(data), 1111)]  # an odd number of bytes
    expected = all_probs(stream(tiny_model, [audio], **by_heads))
    np.testing.assert_allclose(all_probs(stream(tiny_model, pieces, **by_heads)), expected, rtol=0, atol=1e-6)
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    from_file = all_probs(tiny_model.stream(tmp_path / "a.wav", **by_heads))
    np.testing.assert_allclose(from_file, expected, rtol=0, atol=1e-5)


def test_another_rate_is_resampled(tiny_model, speech):
    import soxr

    expected = all_probs(stream(tiny_model, [speech], **by_heads))
    fast = soxr.resample(speech, 16000, 48000).astype(np.float32)
    found = all_probs(stream(tiny_model, cut(fast, [999] * 50), sample_rate=48000, **by_heads))
    assert len(found) == len(expected)
    assert np.abs(found - expected).mean() < 0.02


@ways
@pytest.mark.parametrize("count, frames", [(0, 0), (1, 1), (159, 1), (160, 1), (1280, 1), (1440, 2)])
def test_almost_no_audio(tiny_model, speech, options, count, frames):
    updates = list(stream(tiny_model, [speech[:count]], **options))
    assert len(all_probs(updates)) == frames
    assert np.isfinite(all_probs(updates)).all()
    assert updates[-1].is_last


@ways
@pytest.mark.parametrize("kind", ["silence", "noise", "loud", "constant"])
def test_audio_without_speech(tiny_model, options, kind):
    noise = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    audio = {"silence": 0 * noise, "noise": 0.1 * noise, "loud": 1000 * noise, "constant": 0 * noise + 1}[kind]
    found = all_probs(stream(tiny_model, [audio], **options))
    assert len(found) == 38
    assert np.isfinite(found).all()


@ways
def test_nan_in_the_middle_leaves_the_stream_as_it_was(tiny_model, speech, options):
    streamer = Streamer(tiny_model, **options)
    updates = streamer.push(speech[:60_000])
    before = streamer.state
    bad = speech[60_000:70_000].copy()
    bad[[17, 5000]] = np.nan, np.inf
    with pytest.raises(AudioError, match="2 that are NaN or infinite"):
        streamer.push(bad)
    assert streamer.state is before
    updates += [*streamer.push(speech[60_000:]), *streamer.finish()]
    expected = all_probs(stream(tiny_model, [speech], **options))
    np.testing.assert_allclose(all_probs(updates), expected, rtol=0, atol=1e-5)


def test_another_rate_in_the_middle_is_refused(tiny_model, speech):
    streamer = Streamer(tiny_model, **by_heads)
    streamer.push(speech[:8000], sample_rate=16000)
    before = streamer.state
    with pytest.raises(StreamError, match="has 16000 samples per second, but this piece has 48000"):
        streamer.push(speech[:8000], sample_rate=48000)
    assert streamer.state is before


@pytest.mark.parametrize(
    "piece, message",
    [
        (np.zeros((4, 4, 4)), r"must be \(samples,\) or \(samples, channels\)"),
        (np.zeros((2, 1000)), "Transpose it"),
        (np.array(["a"]), "must hold floats or integers"),
    ],
)
def test_a_piece_of_no_use_is_refused(tiny_model, piece, message):
    with pytest.raises(AudioError, match=message):
        Streamer(tiny_model, **by_heads).push(piece)


def test_bytes_are_not_followed_by_samples_in_the_middle_of_a_sample(tiny_model):
    streamer = Streamer(tiny_model, **by_heads)
    streamer.push(b"\x00\x01\x02")
    with pytest.raises(AudioError, match="half a sample is still open"):
        streamer.push(np.zeros(10))
    streamer.push(b"\x03")
    assert streamer.state.num_samples == 2


def test_a_finished_stream_takes_nothing_more(tiny_model, speech):
    streamer = Streamer(tiny_model, **by_heads)
    streamer.push(speech[:5000])
    assert streamer.finish()[-1].is_last
    assert streamer.finish() == []
    with pytest.raises(StreamError, match="is finished"):
        streamer.push(speech)


def test_chunks_of_no_use(tiny_model, tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        stream(tiny_model, tmp_path / "none.wav")
    with pytest.raises(AudioError, match="must be an iterable"):
        stream(tiny_model, 3)
    with pytest.raises(ConfigError, match="`sample_rate` must be in Hz"):
        stream(tiny_model, [], sample_rate=3)
    with pytest.raises(ConfigError, match="`latency` must be one of"):
        stream(tiny_model, [], latency="soon")


def test_the_model_is_as_it_was_after_an_error_and_between_updates(tiny_model, speech, monkeypatch):
    streamer = Streamer(tiny_model, **by_heads)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    tiny_model.train()
    try:
        updates = stream(tiny_model, [speech], **by_heads)
        next(updates)
        assert all(module.training for module in tiny_model.modules())
        streamer.push(speech[:40_000])
        state = streamer.state
        monkeypatch.setattr(
            tiny_model.sortformer_modules, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("broken"))
        )
        with pytest.raises(RuntimeError, match="broken"):
            streamer.push(speech[40_000:])
        assert all(module.training for module in tiny_model.modules())
        assert streamer.state is state
    finally:
        tiny_model.eval()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_answer_that_is_no_number_stops_the_stream(tiny_model, speech, monkeypatch):
    forward = tiny_model.sortformer_modules.forward
    monkeypatch.setattr(tiny_model.sortformer_modules, "forward", lambda states: forward(states=states) * torch.nan)
    streamer = Streamer(tiny_model, **by_heads)
    with pytest.raises(StreamError, match="answers with NaN"):
        streamer.push(speech)
    assert streamer.state.num_samples == 0


@ways
def test_a_saved_stream_goes_on(tiny_model, speech, options, tmp_path):
    expected = list(stream(tiny_model, [speech], **options))
    streamer = Streamer(tiny_model, **options)
    updates = streamer.push(speech[:70_001])
    streamer.state.save(tmp_path / "stream.pt")
    again = Streamer(tiny_model, state=StreamState.load(tmp_path / "stream.pt"))
    updates += [*again.push(speech[70_001:]), *again.finish()]
    np.testing.assert_array_equal(all_probs(updates), all_probs(expected))
    assert all_segments(updates) == all_segments(expected)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", [b"", b"no file of torch", "tensor", "dict"])
def test_what_is_no_saved_stream_is_refused(tmp_path, content):
    path = tmp_path / "bad.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(torch.zeros(3) if content == "tensor" else {"format": 1}, path)
    with pytest.raises(StreamError, match="not the s"):
        StreamState.load(path)


def twin_of(model):
    """Another model of the same weights."""
    twin = type(model)(model.cfg).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_another_model_refuses_the_state_by_name(tiny_model, speech):
    streamer = Streamer(tiny_model, **by_heads)
    streamer.push(speech[:40_000])
    other = twin_of(tiny_model)
    Streamer(other, state=streamer.state)  # the same weights
    with torch.no_grad():
        other.encoder.layers[0].norm_out.weight.add_(0.1)
    with pytest.raises(StreamError, match=r"belongs to the model `SortformerDiarizer-4x32-\w+/\w+`, but this is"):
        Streamer(other, state=streamer.state)
    with pytest.raises(StreamError, match="keeps its settings"):
        Streamer(tiny_model, state=streamer.state, latency="10s")


def test_the_same_model_in_another_dtype_takes_the_state_up(tiny_model, speech):
    streamer = Streamer(tiny_model, **by_heads)
    streamer.push(speech[:40_000])
    half = twin_of(tiny_model).to(torch.bfloat16)
    again = Streamer(half, state=streamer.state)
    assert len(again.push(speech[40_000:])) > 3
    assert again.state.cache.fifo.dtype == torch.bfloat16
    moved = again.state.to(dtype=torch.float32)
    assert moved.cache.fifo.dtype == torch.float32
    Streamer(tiny_model, state=moved).finish()


RESUME = """
import sys
import numpy as np
from nemo_sortformer import SortformerDiarizer
from nemo_sortformer.inference.stream import Streamer, StreamState

model = SortformerDiarizer.restore_from(sys.argv[1], map_location="cpu").eval()
streamer = Streamer(model, state=StreamState.load(sys.argv[2]))
updates = [*streamer.push(np.load(sys.argv[3])), *streamer.finish()]
np.save(sys.argv[4], np.concatenate([update.probs for update in updates]))
"""


@pytest.mark.slow
def test_a_stream_goes_on_in_another_process(tiny_model, speech, tmp_path):
    expected = all_probs(stream(tiny_model, [speech], **by_voices))
    streamer = Streamer(tiny_model, **by_voices)
    first = streamer.push(speech[:70_001])
    paths = [str(tmp_path / name) for name in ("model.nemo", "stream.pt", "rest.npy", "probs.npy")]
    tiny_model.save_to(paths[0])
    streamer.state.save(paths[1])
    np.save(paths[2], speech[70_001:])
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", RESUME, *paths], check=True, capture_output=True, cwd=root)
    found = np.concatenate([all_probs(first), np.load(paths[3])])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
