# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Exported files answer as the model does: batches, lengths, streams, 8 bits, the command and the example."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.inference import export as export_file
from nemo_sortformer.inference.export import ExportError, export_model
from nemo_sortformer.inference.export_onnx import run_onnx
from nemo_sortformer.inference.stream import stream
from nemo_sortformer.models.diarizer import SortformerDiarizer

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package}, of the extra `export`, is not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LATENCY = {
    "chunk_len": 6,
    "chunk_right_context": 7,
    "chunk_left_context": 1,
    "fifo_len": 31,
    "spkcache_len": 32,
    "spkcache_update_period": 24,
}
TRANSFORMER = {
    "_target_": "nemo_sortformer.modules.TransformerStateEncoder",
    "num_layers": 2,
    "hidden_size": 24,
    "inner_size": 48,
    "num_attention_heads": 2,
}


def published_form():
    """A small model of NVIDIA's form: batch norms, a plain Transformer, no embeddings, mels as they are, no level."""
    cfg = OmegaConf.load(ROOT / "configs" / "diarizer_test.yaml").model
    cfg.transformer_encoder, cfg.affinity, cfg.level = TRANSFORMER, None, "none"
    cfg.encoder.conv_norm_type, cfg.preprocessor.normalize, cfg.loss.layer_weight = "batch_norm", "NA", 0.0
    torch.manual_seed(0)
    return SortformerDiarizer(cfg).eval()


def affinity_form():
    """A small model whose first layer estimates labels from affinities, with an activity head."""
    cfg = OmegaConf.load(ROOT / "configs" / "diarizer_test.yaml").model
    cfg.transformer_encoder.affinity_layers, cfg.activity = 1, {}
    torch.manual_seed(0)
    return SortformerDiarizer(cfg).eval()


@pytest.mark.parametrize("form", ["sorting", "affinity", "published"])
def test_recordings_of_any_batch_and_length(form, tiny_model, make_audio, tmp_path):
    model = {"sorting": lambda: tiny_model, "affinity": affinity_form, "published": published_form}[form]()
    found = export_model(model, tmp_path)
    assert found.largest_difference < 1e-5
    about = json.loads(found.files["description"].read_text())
    run = run_onnx(found.files["onnx"], threads=1)
    for batch, seconds in ((1, 0.2), (1, 1.0), (3, 7.77), (2, 61.0)):
        audio = np.stack([make_audio(seconds, seed) for seed in range(batch)])
        lengths = np.array([audio.shape[1] - 1111 * i for i in range(batch)])
        with torch.no_grad():
            expected = model(audio_signal=torch.from_numpy(audio), audio_signal_length=torch.from_numpy(lengths))
        values = dict(zip(about["outputs"], run(audio, lengths), strict=True))
        assert values["lengths"].tolist() == expected.lengths.tolist()
        assert np.abs(values["probs"] - expected.probs.numpy()).max() < 1e-4
        assert ("embeddings" in values) == (form != "published")
        assert ("activity" in values) == (form == "affinity")
        if "embeddings" in values:
            count = int(expected.lengths[-1])
            assert np.abs(values["embeddings"][-1, :count] - expected.embeddings[-1, :count].numpy()).max() < 1e-4


def test_a_stream_in_a_process_that_knows_only_onnxruntime(tiny_model, make_audio, tmp_path):
    found = export_model(tiny_model, tmp_path, streaming=True, latency=LATENCY, int8=True)
    audio = np.round(make_audio(24.3, seed=4) * 32768).clip(-32768, 32767).astype("<i2")
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(audio.tobytes())
    only = "import sys; sys.modules.update(torch=None, nemo=None, nemo_sortformer=None); sys.argv.pop(0); "
    script = str(ROOT / "examples" / "stream_onnx.py")
    code = only + "import runpy; runpy.run_path(sys.argv[0])"
    done = subprocess.run(
        [sys.executable, "-c", code, script, str(tmp_path), str(tmp_path / "talk.wav")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)
    heard = audio.astype(np.float32) / 32768
    updates = stream(tiny_model, [heard], latency=LATENCY, override_config={"assignment": "heads"})
    expected = np.concatenate([update.probs for update in updates])
    assert rows.shape == expected.shape
    assert np.abs(rows - expected).max() < 1.5e-4  # four digits are printed
    assert found.files["int8"].stat().st_size < 0.95 * found.files["onnx"].stat().st_size


def test_an_archive_for_torch_and_mel_features(tmp_path):
    model = published_form()
    found = export_model(model, tmp_path, file_format="torch", source="mel")
    run = torch.export.load(found.files["torch"]).module()
    mel, lengths = torch.randn(3, 32, 333), torch.tensor([333, 5, 300])
    with torch.no_grad():
        probs, frames = run(mel, lengths)
        expected = model.forward_features(mel, lengths)
    assert frames.tolist() == expected.lengths.tolist()
    assert float((probs - expected.probs).abs().max()) < 1e-5


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export_file, "largest_difference", lambda graph, run: float("nan"))
    with pytest.raises(ExportError, match="beside the model"):
        export_model(published_form(), tmp_path, file_format="torch")
    assert not list(tmp_path.iterdir())
