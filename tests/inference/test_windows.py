# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Windows tile a recording, and give what one pass gives where the pieces meet."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.inference import windows
from nemo_sortformer.inference.windows import batch_outputs, frames_of, match_columns, plan_windows, windowed_outputs


@given(total=st.integers(1, 500), window=st.integers(1, 60), context=st.integers(0, 20))
def test_windows_tile_the_recording(total, window, context):
    if window - 2 * context < 1:
        with pytest.raises(ValueError, match="context"):
            plan_windows(total, window_frames=window, context_frames=context)
        return
    plan = plan_windows(total, window_frames=window, context_frames=context)
    kept = [frame for w in plan for frame in range(w.keep_first, w.keep_last)]
    assert kept == list(range(total))
    for w in plan:
        assert 0 <= w.first <= w.keep_first < w.keep_last <= w.last <= total
        assert w.last - w.first == min(window, total)
        assert w.first == 0 or w.keep_first - w.first >= context
        assert w.last == total or w.last - w.keep_last >= context
    assert all(a.last - b.first >= 2 * context for a, b in zip(plan, plan[1:], strict=False))


def test_columns_are_matched_by_what_they_share():
    rng = np.random.default_rng(0)
    wanted = (rng.random((50, 4)) > 0.5).astype(np.float32)
    order = [2, 0, 3, 1]
    shuffled = np.empty_like(wanted)
    for j, k in enumerate(order):
        shuffled[:, k] = wanted[:, j]
    np.testing.assert_array_equal(match_columns(shuffled, wanted), order)


@pytest.mark.parametrize("samples", [1, 160, 800, 1281, 16000, 16001, 48000])
def test_any_length_gives_the_frames_of_its_length(tiny_model, make_audio, samples):
    output = batch_outputs(tiny_model, [make_audio(3.0)[:samples]])[0]
    assert output.probs.shape == (frames_of(tiny_model, samples), 4)
    assert output.embeddings.shape == (len(output.probs), 8)
    assert np.isfinite(output.probs).all()


def test_a_batch_is_its_recordings_one_by_one(tiny_model, make_audio):
    recordings = [make_audio(seconds, seed) for seed, seconds in enumerate((0.05, 2.5, 7.0, 1.01))]
    together = batch_outputs(tiny_model, recordings)
    for audio, output in zip(recordings, together, strict=True):
        alone = batch_outputs(tiny_model, [audio])[0]
        np.testing.assert_allclose(output.probs, alone.probs, atol=2e-5)
        np.testing.assert_allclose(output.embeddings, alone.embeddings, atol=2e-4)


def test_one_window_is_one_pass(tiny_model, make_audio):
    audio = make_audio(9.0)
    output, whole = windowed_outputs(tiny_model, audio, window_seconds=20.0), batch_outputs(tiny_model, [audio])[0]
    np.testing.assert_array_equal(output.probs, whole.probs)
    np.testing.assert_array_equal(output.embeddings, whole.embeddings)


@pytest.mark.parametrize("seconds", [20.04, 33.3, 61.0])
def test_windows_cover_the_whole_recording(tiny_model, make_audio, seconds):
    audio = make_audio(seconds)
    output = windowed_outputs(tiny_model, audio, window_seconds=8.0, context_seconds=1.0, batch_size=3)
    assert len(output.probs) == len(output.embeddings) == frames_of(tiny_model, len(audio))
    np.testing.assert_allclose(np.linalg.norm(output.embeddings, axis=1), 1.0, atol=1e-3)


def test_slots_that_swap_between_windows_are_put_back(monkeypatch, tiny_model, make_audio):
    truth = (np.random.default_rng(0).random((frames_of(tiny_model, 30 * 16000), 4)) > 0.5).astype(np.float32)
    calls = []

    def shuffled(model, mel, lengths, most_frames):
        results = []
        for piece in mel:
            first = len(calls) * 50 if len(calls) * 50 + 100 <= len(truth) else len(truth) - 100
            order = np.random.default_rng(len(calls)).permutation(4) if calls else np.arange(4)
            calls.append(len(piece))
            results.append(windows.Outputs(truth[first : first + 100][:, order], None))
        return results

    monkeypatch.setattr(windows, "run_features", shuffled)
    output = windowed_outputs(tiny_model, make_audio(30.0), window_seconds=8.0, context_seconds=2.0)
    assert len(calls) > 5
    np.testing.assert_array_equal(output.probs, truth)
    assert output.embeddings is None


def test_memory_depends_on_the_window(monkeypatch, tiny_model, make_audio):
    longest = []
    real = windows.run_features

    def watched(model, mel, lengths, most_frames):
        longest.append(mel.shape[0] * mel.shape[2])
        return real(model, mel, lengths, most_frames)

    monkeypatch.setattr(windows, "run_features", watched)
    windowed_outputs(tiny_model, make_audio(120.0), window_seconds=10.0, context_seconds=1.0, batch_size=2)
    assert max(longest) <= 2 * 10.0 * 100


def test_a_window_has_the_level_and_normalization_of_the_recording(monkeypatch, tiny_model, make_audio):
    audio = make_audio(24.0)
    audio[len(audio) // 2 :] *= 1e-3  # by itself, the quiet half would be made as loud as the other
    with torch.inference_mode():
        whole, _ = tiny_model.mel_features(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    heard = []
    real = windows.run_features

    def watched(model, mel, lengths, most_frames):
        heard.extend(part[:, :length] for part, length in zip(mel, lengths.tolist(), strict=True))
        return real(model, mel, lengths, most_frames)

    monkeypatch.setattr(windows, "run_features", watched)
    windowed_outputs(tiny_model, audio, window_seconds=8.0, context_seconds=1.0)
    plans = plan_windows(frames_of(tiny_model, len(audio)), window_frames=100, context_frames=12)
    assert len(heard) == len(plans) > 2
    for part, plan in zip(heard, plans, strict=True):
        torch.testing.assert_close(part, whole[0, :, plan.first * 8 : plan.last * 8], rtol=0, atol=0)


def test_blocks_cover_the_whole_recording(monkeypatch, tiny_model, make_audio):
    monkeypatch.setattr(windows, "BLOCK_SECONDS", 20.0)
    audio = make_audio(61.0)
    total, kept = frames_of(tiny_model, len(audio)), []
    plan = windows._plan(tiny_model, len(audio), 8.0, 1.0)
    for step in windows._steps(tiny_model, audio, plan, 3, None, None):
        assert len(step.output.probs) == step.window.last - step.window.first
        kept.extend(range(step.window.keep_first, step.window.keep_last))
    assert kept == list(range(total))
    assert len(windowed_outputs(tiny_model, audio, window_seconds=8.0, context_seconds=1.0).probs) == total


@pytest.mark.parametrize("seconds", [20.1, 24.0, 39.0, 47.3])
def test_a_last_block_that_overlaps_the_one_before_is_not_run_again(monkeypatch, tiny_model, make_audio, seconds):
    monkeypatch.setattr(windows, "BLOCK_SECONDS", 20.0)
    audio = make_audio(seconds)
    run = []
    real = windows.run_features

    def watched(model, mel, lengths, most_frames):
        run.extend(most_frames)
        return real(model, mel, lengths, most_frames)

    monkeypatch.setattr(windows, "run_features", watched)
    output = windowed_outputs(tiny_model, audio, window_seconds=8.0, context_seconds=1.0)
    total = frames_of(tiny_model, len(audio))
    assert len(output.probs) == len(output.embeddings) == total
    step = 100 - 2 * 12
    blocks = len(plan_windows(total, window_frames=250, context_frames=12))
    assert len(run) <= -(-total // step) + blocks - 1  # as many windows as tile it, and one more where blocks meet


@pytest.mark.parametrize("memory", [0.0, 2.0])
@pytest.mark.parametrize("samples", [24 * 16000 + 1, 24 * 16000 + 1279, 24 * 16000 + 1280, 13 * 16000 - 1])
def test_any_last_window_is_joined(tiny_model, make_audio, samples, memory):
    """NeMo counts whole hops, so that the last window may have a frame less than its audio."""
    audio = make_audio(30.0)[:samples]
    output = windowed_outputs(tiny_model, audio, window_seconds=6.0, context_seconds=1.0, memory_seconds=memory)
    frames = frames_of(tiny_model, samples)
    assert frames - 1 <= len(output.probs) == len(output.embeddings) <= frames
