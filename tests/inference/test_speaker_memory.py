# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is remembered of speakers: clear and short stretches, and by them whose column is whose in the next window."""

import numpy as np
import torch

from nemo_sortformer.inference import windows
from nemo_sortformer.inference.speaker_memory import SpeakerMemory
from nemo_sortformer.inference.windows import frames_of, windowed_outputs

HOPS = 8


def mel_of(frames: int, start: int = 0) -> torch.Tensor:
    """Features that say their place."""
    return torch.arange(start * HOPS, (start + frames) * HOPS, dtype=torch.float32).expand(3, -1)


def test_clear_stretches_of_each_speaker_in_order_up_to_a_length():
    memory = SpeakerMemory(3, frames_per_speaker=30, hops_per_frame=HOPS)
    assert memory.recall() == (None, None)
    probs = np.zeros((200, 3), np.float32)
    probs[0:60, 1] = 0.7
    probs[60:75, 0] = 0.9
    probs[65:75, 2] = 0.9  # two at once are not clear
    probs[100:120, 1] = 0.95
    probs[150:155, 2] = 0.99  # too short
    memory.remember(mel_of(200), probs, place=0)
    mel, known = memory.recall()
    places = mel[0, ::HOPS].long() // HOPS
    clearest = [*range(50, 60), *range(100, 120)]
    assert places.tolist() == clearest, "of speaker 1, as much as fits; nobody else is clear for long enough"
    np.testing.assert_array_equal(known, probs[clearest])
    later = np.zeros((50, 3), np.float32)
    later[0:20, 0] = 0.9
    memory.remember(mel_of(50, 300), later, place=300)
    mel, known = memory.recall()
    assert (mel[0, ::HOPS].long() // HOPS).tolist() == [*range(300, 320), *clearest], "by column"
    assert mel.shape[1] == HOPS * len(known)


def test_no_more_than_asked_for_is_kept_however_long_it_runs():
    memory = SpeakerMemory(2, frames_per_speaker=40, hops_per_frame=HOPS)
    rng = np.random.default_rng(0)
    for place in range(0, 3000, 100):
        probs = np.zeros((100, 2), np.float32)
        probs[:50, 0] = rng.uniform(0.5, 1)
        probs[50:, 1] = rng.uniform(0.5, 1)
        memory.remember(mel_of(100, place), probs, place=place)
        mel, known = memory.recall()
        assert len(known) <= 80
        assert mel.shape[1] == HOPS * len(known)


def test_whoever_was_silent_where_windows_meet_is_known_again(monkeypatch, tiny_model, make_audio):
    """A network that knows voices, and gives columns by arrival in what it hears: the memory must undo that."""
    total = frames_of(tiny_model, 60 * 16000)
    voice = np.repeat(
        [0, 1, 2, 1, 2, 0, 2, 1, 0, 2], total // 10
    )  # long turns: two of three are silent where windows meet
    voice = np.pad(voice, (0, total - len(voice)), mode="edge")
    truth = np.eye(4, dtype=np.float32)[voice]
    monkeypatch.setattr(windows, "_mel_of_block", lambda model, audio, block: torch.arange(
        block.first * HOPS, block.last * HOPS, dtype=torch.float32).expand(3, -1))  # fmt: skip

    def hears(model, mel, lengths, most_frames):
        frames = mel[0, 0, ::HOPS].long().numpy() // HOPS
        order = list(dict.fromkeys(voice[frames].tolist()))
        order += [k for k in range(4) if k not in order]
        return [windows.Outputs(0.02 + 0.96 * truth[frames][:, order], None)]

    monkeypatch.setattr(windows, "run_features", hears)

    def errors(memory_seconds):
        found = windowed_outputs(
            tiny_model,
            make_audio(60.0),
            window_seconds=12.0,
            context_seconds=1.0,
            batch_size=1,
            memory_seconds=memory_seconds,
        )
        assert len(found.probs) == total
        return int(((found.probs > 0.5) != truth).any(axis=1).sum())

    assert errors(2.0) == 0
    assert errors(0.0) > 100, "by the shared frames alone, it is chance"
