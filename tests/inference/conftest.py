# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A tiny diarizer whose answers vary over time, recordings to feed it, and random sessions to score."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_sortformer.data.segment import Segment, merge_overlaps

CONFIG = Path(__file__).parents[2] / "configs" / "diarizer_test.yaml"


def make_audio(seconds: float, seed: int = 0) -> np.ndarray:
    """Buzzes of different pitch in turns, over noise: enough for an untrained network to answer differently."""
    rng = np.random.default_rng(seed)
    n = max(round(seconds * 16000), 1)
    audio = 0.003 * rng.standard_normal(n)
    start = 0
    while start < n:
        length = int(rng.uniform(0.3, 1.5) * 16000)
        time = np.arange(min(length, n - start)) / 16000
        tone = np.sign(np.sin(2 * np.pi * rng.uniform(80, 900) * time))
        audio[start : start + length] += rng.uniform(0.01, 0.3) * tone
        start += length + int(rng.uniform(0.0, 0.6) * 16000)
    return audio.astype(np.float32)


def random_session(seed: int, *, seconds: float = 30.0, speakers: int = 3) -> tuple[list[Segment], list[Segment]]:
    """Truth and answer that resemble each other: moved boundaries, lost turns, other names, swapped speakers."""
    rng = np.random.default_rng(seed)
    truth, answer, time = [], [], 0.4
    while time < seconds - 3:
        end = min(time + float(rng.uniform(0.5, 4)), seconds)
        speaker = int(rng.integers(speakers))
        truth.append(Segment(round(time, 3), round(end, 3), f"person{speaker}"))
        if rng.random() > 0.1:
            heard = speaker if rng.random() > 0.15 else int(rng.integers(speakers))
            moved = sorted(np.clip([time + rng.normal(0, 0.4), end + rng.normal(0, 0.4)], 0, seconds))
            answer.append(Segment(round(float(moved[0]), 3), round(float(moved[1]) + 0.01, 3), f"speaker_{heard}"))
        time = max(end + float(rng.normal(0.3, 0.8)), 0.1)
    return merge_overlaps(truth), merge_overlaps(answer)


@pytest.fixture(scope="session")
def tiny_model():
    """A random SortformerDiarizer, its last layer set so that every slot is active about half of the time."""
    import torch
    from omegaconf import OmegaConf

    from nemo_sortformer.models.diarizer import SortformerDiarizer

    torch.manual_seed(0)
    model = SortformerDiarizer(OmegaConf.load(CONFIG).model).eval()
    last = model.sortformer_modules.single_hidden_to_spks
    audio = torch.from_numpy(make_audio(20.0, seed=99))[None]
    with torch.no_grad():
        last.weight.normal_()
        logits = model(audio_signal=audio, audio_signal_length=torch.tensor([audio.shape[1]])).logits[0]
        last.weight.mul_(2 / logits.std(dim=0)[:, None])
        logits = model(audio_signal=audio, audio_signal_length=torch.tensor([audio.shape[1]])).logits[0]
        last.bias.sub_(logits.median(dim=0).values)
    return model


@pytest.fixture
def wav(tmp_path):
    """Write a recording and return its path."""

    def write(name: str, seconds: float = 3.0, *, seed: int = 0, rate: int = 16000, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = make_audio(seconds, seed)[: round(seconds * 16000)]
        if rate != 16000:
            samples = np.interp(np.arange(round(seconds * rate)) / rate * 16000, np.arange(len(samples)), samples)
        soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
        return path

    return write


@pytest.fixture(scope="session", name="random_session")
def random_session_fixture():
    """The function that makes a random session, as tests cannot import this file."""
    return random_session


@pytest.fixture(scope="session", name="make_audio")
def make_audio_fixture():
    """The function that makes audio."""
    return make_audio
