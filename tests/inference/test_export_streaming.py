# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NVIDIA's streaming form, built and saved by NeMo, exported by the command at each preset, answers in onnxruntime."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from typer.testing import CliRunner

from benchmarks.streaming import streaming_nemo_config
from nemo_sortformer.cli import app
from nemo_sortformer.config.streaming import LATENCIES
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.inference.checkpoint import load_model
from nemo_sortformer.inference.export_onnx import run_onnx

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package}, of the extra `export`, is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "stream_onnx.py"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_audio):
    """NeMo's streaming model with two narrow layers of each kind, its answers spread over all speakers."""
    config = streaming_nemo_config(2)
    config.encoder.update(d_model=64, n_heads=4, subsampling_conv_channels=16)
    config.sortformer_modules.update(fc_d_model=64, tf_d_model=32)
    config.transformer_encoder.update(hidden_size=32, inner_size=64, num_attention_heads=4)
    config.preprocessor.dither = 0.0
    torch.manual_seed(0)
    model = SortformerEncLabelModel(cfg=config).eval()
    last, seen = model.sortformer_modules.single_hidden_to_spks, []
    handle = last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    with torch.no_grad():
        model.streaming_mode = False  # one pass is enough to see the spread
        audio = torch.from_numpy(make_audio(20.0, seed=99))[None]
        model(audio_signal=audio, audio_signal_length=torch.tensor([audio.shape[1]]))
        handle.remove()
        last.weight.normal_()
        last.weight.mul_(2.5 / (seen[0] @ last.weight.T).std(dim=0)[:, None])
        last.bias.copy_(-(seen[0] @ last.weight.T).median(dim=0).values)
    path = tmp_path_factory.mktemp("streaming") / "streaming.nemo"
    model.save_to(str(path))
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Exports by the command, one for each latency."""
    folders = {}

    def export(latency):
        if latency not in folders:
            folders[latency] = tmp_path_factory.mktemp("exported")
            arguments = ["export", str(checkpoint), str(folders[latency]), "--streaming", "--latency", latency]
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
            assert "largest difference from PyTorch" in done.output
        return folders[latency]

    return export


@pytest.mark.slow
@pytest.mark.parametrize("latency", LATENCIES)
def test_the_published_streaming_form_streams_at_each_preset(checkpoint, exported, make_audio, latency):
    spec = json.loads((exported(latency) / "stream.json").read_text())
    assert spec["latency_seconds"] == pytest.approx(float(latency.removesuffix("s")))
    assert [port["shape"][:2] for port in spec["state"] if port["name"] == "cache"] == [[1, 188]]
    check_parity(checkpoint, exported(latency), make_audio(70.0 if latency == "30.4s" else 40.0, seed=7), latency)


@pytest.mark.slow
@pytest.mark.parametrize("latency", LATENCIES)
def test_so_it_does_on_recorded_people(checkpoint, exported, speech_data, latency):
    audio = read_audio(speech_data / "sessions" / "test" / "test_4spk_00.flac")
    check_parity(checkpoint, exported(latency), audio, latency)


@pytest.mark.slow
def test_the_same_weights_on_whole_recordings(checkpoint, speech_data, tmp_path):
    done = CliRunner().invoke(app, ["export", str(checkpoint), str(tmp_path)])
    assert done.exit_code == 0, done.output
    model, run = load_model(checkpoint, device="cpu"), run_onnx(tmp_path / "diarizer.onnx", threads=1)
    for name in ("test_2spk_00", "test_4spk_00"):
        audio = read_audio(speech_data / "sessions" / "test" / f"{name}.flac")[None]
        lengths = np.array([audio.shape[1]])
        with torch.no_grad():
            expected = model(audio_signal=torch.from_numpy(audio), audio_signal_length=torch.from_numpy(lengths)).probs
        assert expected.std() > 0.1
        assert np.abs(run(audio, lengths)[0] - expected.numpy()).max() < 1e-4


def check_parity(checkpoint, folder, audio, latency):
    """Stream a recording by an exported step and by PyTorch."""
    spec = json.loads((folder / "stream.json").read_text())
    updates = load_model(checkpoint, device="cpu").stream([audio], latency=latency)
    expected = np.concatenate([update.probs for update in updates])
    assert expected.std() > 0.1
    run = run_onnx(folder / "stream.onnx", threads=1)
    state = [np.zeros(port["shape"], port["dtype"]) for port in spec["state"]]
    padded, found = np.pad(audio, (spec["lead_samples"], spec["piece_samples"])), []
    for start in range(0, len(audio), spec["step_samples"]):
        piece = padded[None, start : start + spec["piece_samples"]]
        left = np.array([spec["lead_samples"] + len(audio) - start])
        probs, lengths, *state = run(piece, left, *state)
        found.append(probs[0, : int(lengths[0])])
    found = np.concatenate(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


def test_the_example_is_ten_lines_of_numpy_and_onnxruntime():
    statements = [node for node in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(node, ast.stmt)]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    docstring = 1
    assert len(statements) - len(imports) - docstring <= 10
    names = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    assert names == {"json", "sys", "wave", "numpy", "onnxruntime"}
