# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Streaming checkpoints of NeMo give NeMo's numbers here, at all presets, whole, in pieces, and after saving again."""

import numpy as np
import pytest
import soundfile
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from omegaconf import open_dict
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.functional.cache import join_caches, split_cache
from nemo_sortformer.inference.long_audio import LongAudio
from nemo_sortformer.inference.partial_work import PartialWorkWarning
from nemo_sortformer.inference.stream import Streamer
from nemo_sortformer.inference.stream_recordings import stream_recordings
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.diarizer.streaming import init_stream, stream_step
from nemo_sortformer.modules.lean_conformer import LeanConformerEncoder

# cache, queue, period, chunk, right context: NeMo's four presets at a sixth of their length
PRESETS = {
    "30.4s": (32, 7, 50, 57, 7),
    "10s": (32, 21, 21, 21, 1),
    "1.04s": (32, 31, 24, 6, 7),
    "0.32s": (32, 31, 24, 3, 1),
}
SECONDS = 24.3


def make_speech(seconds, seed=0):
    """Voices of different pitch in turns, loud and soft, with pauses."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16000)
    audio, start = 0.003 * rng.standard_normal(count), 0
    while start < count:
        length = int(rng.uniform(0.3, 2.5) * 16000)
        time = np.arange(min(length, count - start)) / 16000
        audio[start : start + length] += rng.uniform(0.01, 0.4) * np.sign(np.sin(rng.uniform(500, 4000) * time))
        start += length + int(rng.uniform(0.0, 1.0) * 16000)
    return audio.astype(np.float32)


@pytest.fixture(scope="module")
def audio():
    return make_speech(SECONDS)


@pytest.fixture
def streaming_pair(nemo_cfg, tmp_path):
    """NeMo's streaming model with random weights, and ours restored from its file."""

    def make(preset="1.04s", *, normalize="NA", seed=1, speakers=4, **changes):
        cache, queue, period, chunk, right = PRESETS[preset]
        cfg = nemo_cfg(streaming_mode=True, async_streaming=False, **changes)
        with open_dict(cfg):
            cfg.preprocessor.update(normalize=normalize, features=128, dither=0.0)
            cfg.encoder.feat_in = 128
            cfg.max_num_of_spks = cfg.sortformer_modules.num_spks = cfg.train_ds.num_spks = speakers
            cfg.sortformer_modules.update(
                spkcache_len=cache,
                fifo_len=queue,
                chunk_len=chunk,
                spkcache_update_period=period,
                chunk_left_context=1,
                chunk_right_context=right,
            )
        torch.manual_seed(seed)
        theirs = SortformerEncLabelModel(cfg=cfg).eval()
        spread_answers(theirs)
        path = str(tmp_path / f"{preset}-{seed}.nemo")
        theirs.save_to(path)
        return theirs, SortformerDiarizer.restore_from(path, map_location="cpu").eval()

    return make


def spread_answers(model):
    """Set the last layer so that each slot is active about half of the time, and surely so at times."""
    last = model.sortformer_modules.single_hidden_to_spks
    samples = torch.from_numpy(make_speech(10.0, seed=5))[None]
    model.streaming_mode = False  # one pass is enough to see the spread
    seen = []
    handle = last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    with torch.no_grad():
        model(audio_signal=samples, audio_signal_length=torch.tensor([samples.shape[1]]))
        last.weight.normal_()
        logits = seen[0] @ last.weight.T
        last.weight.mul_(2.5 / logits.std(dim=0)[:, None])
        last.bias.copy_(-(seen[0] @ last.weight.T).median(dim=0).values)
    handle.remove()
    model.streaming_mode = True


def nemo_probs(model, audio):
    with torch.no_grad():
        signal = torch.from_numpy(audio)[None]
        return model(audio_signal=signal, audio_signal_length=torch.tensor([len(audio)]))[0].numpy()


def our_probs(model, audio, **options):
    streamer = Streamer(model, **options)
    updates = [*streamer.push(audio), *streamer.finish()]
    return np.concatenate([update.probs for update in updates])


@pytest.mark.parametrize("preset", PRESETS)
def test_probabilities_are_nemos_at_each_preset(streaming_pair, audio, preset):
    theirs, ours = streaming_pair(preset)
    expected, got = nemo_probs(theirs, audio), our_probs(ours, audio)
    assert got.shape == expected.shape
    assert (expected > 0.5).any(axis=0).sum() > 1  # or the cache would hold one speaker
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert bool(init_stream(ours).compressed.any()) is False
    assert type(ours.encoder) is LeanConformerEncoder, "the numbers are those of the way that streams take"


@pytest.mark.parametrize("name, sizes", {"one slot": {"speakers": 1}, "six slots": {"speakers": 6}}.items())
def test_any_number_of_slots(streaming_pair, audio, name, sizes):
    theirs, ours = streaming_pair("1.04s", **sizes)
    np.testing.assert_allclose(our_probs(ours, audio), nemo_probs(theirs, audio), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", ["NA", "per_feature"])
def test_diarize_streams_over_the_file_as_nemos_does(streaming_pair, audio, tmp_path, normalize):
    """NeMo normalizes by the whole file, where the settings say so, as its published training settings do."""
    theirs, ours = streaming_pair("10s", normalize=normalize)
    path = str(tmp_path / "meeting.wav")
    soundfile.write(path, audio, 16000, subtype="FLOAT")
    options = {"batch_size": 1, "num_workers": 0, "include_tensor_outputs": True, "verbose": False}
    expected_lines, (expected,) = theirs.diarize(audio=[path], **options)
    lines, (got,) = ours.diarize(audio=[path], **options)
    assert_close(got, expected, rtol=0, atol=1e-5 if normalize == "NA" else 5e-5)  # two sums over the file
    assert len(lines[0]) == len(expected_lines[0]) > 3


def test_saved_again_the_settings_are_kept(streaming_pair, audio, tmp_path):
    _, ours = streaming_pair("0.32s")
    ours.save_to(str(tmp_path / "again.nemo"))
    again = SortformerDiarizer.restore_from(str(tmp_path / "again.nemo"), map_location="cpu").eval()
    assert again.config.streaming == ours.config.streaming
    assert (again.config.streaming.chunk_len, again.config.streaming.spkcache_len) == (3, 32)
    np.testing.assert_array_equal(our_probs(again, audio[:80000]), our_probs(ours, audio[:80000]))


def test_an_offline_file_has_no_streaming_settings_and_streams_when_asked(nemo_cfg, audio):
    model = SortformerDiarizer(nemo_cfg(level="peak")).eval()
    assert model.config.streaming is None
    assert our_probs(model, audio[:48000], latency="0.32s").shape == (38, 4)


def test_recordings_of_one_batch_are_each_as_if_alone(streaming_pair, audio):
    _, ours = streaming_pair()
    recordings = [audio, audio[:100_000], audio[50_000:51_000], audio[30_000:290_001]]
    for together, samples in zip(stream_recordings(ours, recordings, block_seconds=3.0), recordings, strict=True):
        alone = stream_recordings(ours, [samples])[0]
        np.testing.assert_allclose(together.probs, alone.probs, rtol=0, atol=1e-5)
        assert len(alone.probs) == -(-(len(samples) // 160) // 8)


class Stop(BaseException):
    """A run is stopped from outside."""


def stop_at(number):
    """What tells of the progress, and ends the run after so many blocks; and the blocks that were told."""
    told = []

    def tell(done, total):
        told.append((done, total))
        if done == number:
            raise Stop

    return tell, told


def test_a_recording_that_was_stopped_goes_on(streaming_pair, audio, tmp_path):
    _, ours = streaming_pair()
    path, options = tmp_path / "work" / "meeting.partial", {"block_seconds": 5.0, "identity": {"audio": 7}}
    tell, told = stop_at(3)
    with pytest.raises(Stop):
        stream_recordings(ours, [audio], path=path, on_blocks=tell, **options)
    assert told == [(1, 5), (2, 5), (3, 5)]
    assert [file.name for file in path.parent.iterdir()] == ["meeting.partial"]
    expected = stream_recordings(ours, [audio])[0].probs
    tell, told = stop_at(None)
    got = stream_recordings(ours, [audio], path=path, on_blocks=tell, **options)[0].probs
    assert told == [(3, 5), (4, 5), (5, 5)]  # the block that was told last had not been kept
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", ["audio", "model", "damaged", "another kind"])
def test_work_on_something_else_is_not_used(streaming_pair, audio, tmp_path, change):
    _, ours = streaming_pair()
    path, options = tmp_path / "meeting.partial", {"block_seconds": 5.0, "identity": {"audio": 7}}
    stream_recordings(ours, [audio], path=path, **options)
    if change == "model":
        _, ours = streaming_pair(seed=2)
    elif change == "audio":
        options["identity"] = {"audio": 8}
    else:
        path.write_bytes(path.read_bytes()[:5000] if change == "damaged" else b"a letter")
    tell, told = stop_at(None)
    got = stream_recordings(ours, [audio], path=path, on_blocks=tell, **options)[0].probs
    assert told[0] == (1, 5)
    np.testing.assert_allclose(got, stream_recordings(ours, [audio])[0].probs, rtol=0, atol=1e-6)


def test_a_full_disk_costs_only_the_kept_work(streaming_pair, audio, monkeypatch, tmp_path):
    _, ours = streaming_pair()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.warns(PartialWorkWarning, match="No space left"):
        got = stream_recordings(ours, [audio[:160_000]], path=tmp_path / "a" / "b.partial", block_seconds=3.0)
    assert len(got[0].probs) == 125
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("level, normalize", [("none", "NA"), ("rms", "per_feature"), ("peak", "per_feature")])
def test_a_file_that_is_read_as_it_is_heard_is_the_same(streaming_pair, audio, tmp_path, level, normalize):
    _, ours = streaming_pair(normalize=normalize)
    ours.config.level = level
    soundfile.write(tmp_path / "long.wav", audio, 16000, subtype="FLOAT")
    read = LongAudio(tmp_path / "long.wav", sample_rate=16000)
    expected = stream_recordings(ours, [audio], block_seconds=4.0)[0].probs
    np.testing.assert_allclose(stream_recordings(ours, [read], block_seconds=4.0)[0].probs, expected, atol=1e-5)


def steps_of(model, audio, count):
    """Features of the first steps, as `stream_step` wants them."""
    config, samples = model.config.streaming, torch.from_numpy(audio)[None]
    with torch.no_grad():
        mel, _ = model.mel_features(samples, torch.tensor([samples.shape[1]]))
    for step in range(count):
        first = step * config.chunk_len - (config.chunk_left_context if step else 0)
        last = (step + 1) * config.chunk_len + config.chunk_right_context
        yield mel[:, :, 8 * first : 8 * last]


@torch.no_grad()
def test_static_sizes_give_the_same_numbers(streaming_pair, audio):
    _, ours = streaming_pair()
    tight = loose = init_stream(ours)
    for mel in steps_of(ours, audio, 40):
        lengths = torch.tensor([mel.shape[2]])
        one, tight = stream_step(ours, mel, lengths, tight, static=False)
        two, loose = stream_step(ours, mel, lengths, loose, static=True)
        assert_close(one.probs, two.probs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_stream_with_nothing_new_waits_beside_the_others(streaming_pair, audio):
    _, ours = streaming_pair()
    *_, before, last = steps_of(ours, audio, 12)
    _, state = stream_step(ours, before, torch.tensor([before.shape[2]]), init_stream(ours))
    both = join_caches([state, state])
    output, both = stream_step(ours, last.expand(2, -1, -1), torch.tensor([0, last.shape[2]]), both)
    waiting, went_on = split_cache(both)
    assert output.lengths.tolist() == [0, 6]
    for tensor, expected in zip(waiting, state, strict=True):
        assert_close(tensor, expected)
    assert int(went_on.frames) == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_streams_and_a_stream_moves_to_it(streaming_pair, audio, dtype):
    """NeMo's own streaming stops here with `mixed dtype`."""
    _, ours = streaming_pair()
    full = our_probs(ours, audio)
    streamer = Streamer(ours)
    half_way = [update.probs for update in streamer.push(audio[:200_000])]
    half_model = ours.to(dtype)
    half = our_probs(half_model, audio)
    assert np.abs(half - full).mean() < 0.05
    taken_up = Streamer(half_model, state=streamer.state)
    rest = [update.probs for update in [*taken_up.push(audio[200_000:]), *taken_up.finish()]]
    assert taken_up.state.cache.fifo.dtype == dtype
    joined = np.concatenate([*half_way, *rest])
    assert joined.shape == full.shape
    assert np.abs(joined - full).mean() < 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"spkcache_len": 7}, "`spkcache_len` must be at least 16"),
        ({"chunk_len": 0}, "`chunk_len` must be at least 1 frame"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_the_model_is_built(nemo_cfg, change, message):
    cfg = nemo_cfg(streaming_mode=True)
    with open_dict(cfg):
        cfg.sortformer_modules.update(change)
    with pytest.raises(ConfigError, match=message):
        SortformerDiarizer(cfg)


@pytest.mark.gpu
def test_a_stream_moves_to_the_gpu_and_back(streaming_pair, audio):
    _, ours = streaming_pair()
    expected = our_probs(ours, audio)
    streamer = Streamer(ours)
    found = [update.probs for update in streamer.push(audio[:150_000])]
    on_gpu = Streamer(ours.cuda(), state=streamer.state)
    found += [update.probs for update in on_gpu.push(audio[150_000:250_000])]
    back = Streamer(ours.cpu(), state=on_gpu.state)
    found += [update.probs for update in [*back.push(audio[250_000:]), *back.finish()]]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-3)
