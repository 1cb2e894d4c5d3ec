# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Parity on recorded people: the shipped checkpoint, exported, answers in onnxruntime as in PyTorch, to 1e-4."""

import json

import numpy as np
import pytest
import torch

from nemo_sortformer import load_shipped
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.inference.export import export_model
from nemo_sortformer.inference.export_onnx import run_onnx
from nemo_sortformer.inference.stream import stream

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package}, of the extra `export`, is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """The trained diarizer that comes with the package."""
    return load_shipped(map_location="cpu").eval()


@pytest.fixture(scope="module")
def recordings(speech_data):
    """Three sessions of two, three and four test speakers, of different length."""
    folder = speech_data / "sessions" / "test"
    return [read_audio(folder / f"test_{count}spk_00.flac") for count in (2, 3, 4)]


def test_whole_recordings(model, recordings, tmp_path):
    export_model(model, tmp_path)
    about = json.loads((tmp_path / "diarizer.json").read_text())
    run = run_onnx(tmp_path / "diarizer.onnx", threads=1)
    lengths = np.array([len(samples) for samples in recordings])
    audio = np.stack([np.pad(samples, (0, lengths.max() - len(samples))) for samples in recordings])
    with torch.no_grad():
        expected = model(audio_signal=torch.from_numpy(audio), audio_signal_length=torch.from_numpy(lengths))
    found = dict(zip(about["outputs"], run(audio, lengths), strict=True))
    assert found["lengths"].tolist() == expected.lengths.tolist()
    assert np.abs(found["probs"] - expected.probs.numpy()).max() < 1e-4
    for row, other, frames in zip(found["embeddings"], expected.embeddings.numpy(), expected.lengths, strict=True):
        assert np.abs(row[:frames] - other[:frames]).max() < 1e-4
    assert expected.probs.max() > 0.99, "the model is sure of somebody"


def test_streams_side_by_side(model, recordings, tmp_path):
    recordings = [samples[: seconds * 16_000] for samples, seconds in zip(recordings[1:], (24, 30), strict=True)]
    export_model(model, tmp_path, streaming=True, latency="1.04s")
    about = json.loads((tmp_path / "stream.json").read_text())
    run = run_onnx(tmp_path / "stream.onnx", threads=1)
    lead, size = about["lead_samples"], about["piece_samples"]
    state = [np.zeros([len(recordings), *port["shape"][1:]], port["dtype"]) for port in about["state"]]
    longest, found = max(map(len, recordings)), [[] for _ in recordings]
    padded = np.stack([np.pad(samples, (lead, longest + size - len(samples))) for samples in recordings])
    for start in range(0, longest, about["step_samples"]):
        left = np.array([max(lead + len(samples) - start, 0) for samples in recordings])
        probs, lengths, *state = run(padded[:, start : start + size], left, *state)
        for rows, row, count in zip(found, probs, lengths, strict=True):
            rows.append(row[:count])
    for rows, samples in zip(found, recordings, strict=True):
        updates = stream(model, [samples], latency="1.04s", override_config={"assignment": "heads"})
        expected = np.concatenate([update.probs for update in updates])
        rows = np.concatenate(rows)[: len(expected)]
        assert len(rows) == len(expected)
        assert np.abs(rows - expected).max() < 1e-4
        assert expected.max() > 0.99, "the model is sure of somebody"
