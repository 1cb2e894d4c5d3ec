# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What goes into an exported graph gives the model's numbers before it is one: front end, encoder, sort, steps."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.config.streaming import streaming_settings
from nemo_sortformer.functional.arrival import arrival_order, expected_arrival
from nemo_sortformer.inference.export import describe_graph, export_model
from nemo_sortformer.inference.export_encoder import exportable
from nemo_sortformer.inference.export_front_end import RecordingFrontEnd
from nemo_sortformer.inference.export_graphs import StreamGraph
from nemo_sortformer.inference.stream import stream
from nemo_sortformer.models.diarizer.streaming_mel import StreamingMel, streaming_mel
from nemo_sortformer.modules.lean_conformer import use_lean_inference

LATENCY = {
    "chunk_len": 6,
    "chunk_right_context": 7,
    "chunk_left_context": 1,
    "fifo_len": 31,
    "spkcache_len": 32,
    "spkcache_update_period": 24,
}
HEADS = {"assignment": "heads"}


@pytest.fixture
def model(tiny_model):
    """The tiny model, whose level and front end may be changed."""
    level, preprocessor = tiny_model.config.level, tiny_model.preprocessor
    yield tiny_model
    tiny_model.config.level, tiny_model.preprocessor = level, preprocessor


@pytest.mark.parametrize("level", ["peak", "rms", "none"])
@pytest.mark.parametrize("normalize", ["per_feature", "NA"])
def test_the_front_end_is_that_of_the_model(model, make_audio, level, normalize):
    model.config.level = level
    settings = dict(model.config.preprocessor) | {"normalize": normalize}
    model.preprocessor = type(model.preprocessor)(**{k: v for k, v in settings.items() if k != "_target_"}).eval()
    audio = torch.from_numpy(np.stack([make_audio(3.0, 1), 0.01 * make_audio(3.0, 2)]))
    lengths = torch.tensor([48_000, 30_011])
    expected, hops = model.mel_features(audio, lengths)
    mel, found = RecordingFrontEnd(StreamingMel(settings), level)(audio, lengths)
    assert found.tolist() == hops.tolist()
    assert_close(mel, expected[:, :, : mel.shape[2]], rtol=0, atol=2e-3)  # near the logarithm's floor it is coarse
    assert float((mel - expected[:, :, : mel.shape[2]]).abs().mean()) < 1e-5


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("subsampling", ["dw_striding", "stacking_norm"])
def test_the_encoder_on_its_way_is_the_encoder(model, lean, subsampling):
    encoder = ConformerEncoder(
        feat_in=32, n_layers=2, d_model=32, n_heads=2, subsampling=subsampling, subsampling_factor=8,
        subsampling_conv_channels=8, conv_kernel_size=5, conv_norm_type="layer_norm",
    ).eval()  # fmt: skip
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    mel, lengths = torch.randn(2, 32, 203), torch.tensor([203, 77])
    with torch.no_grad():
        expected, frames = encoder(audio_signal=mel, length=lengths)
        if lean:
            use_lean_inference(encoder)
        kinds = [type(module) for module in encoder.modules()]
        with exportable(encoder):
            found, exported_frames = encoder(audio_signal=mel, length=lengths)
    assert [type(module) for module in encoder.modules()] == kinds, "afterwards it is as it was"
    assert exported_frames.tolist() == frames.tolist()
    for row, other, count in zip(found, expected, frames, strict=True):
        assert_close(row[:, :count], other[:, :count], rtol=0, atol=1e-5)


def test_classes_come_back_after_an_error(model):
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), exportable(model):
        raise RuntimeError("stop")
    assert [type(module) for module in model.modules()] == kinds


def test_the_sort_that_exports_is_the_sort(monkeypatch):
    labels = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9))).view(-1, 3, 3)  # all there are: many ties
    probs = torch.rand(200, 40, 4, generator=torch.Generator().manual_seed(0)) ** 3
    probs[:20, :, 1] = 1.0
    lengths = torch.arange(200) % 40 + 1
    cases = [(labels, None, {}), (probs, lengths, {"measure": "soft"}), (probs, lengths, {"causal": True})]
    expected = [arrival_order(values, count, **options) for values, count, options in cases]
    arrival = expected_arrival(probs, lengths)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for (values, count, options), order in zip(cases, expected, strict=True):
        assert torch.equal(arrival_order(values, count, **options), order)
    assert_close(expected_arrival(probs, lengths), arrival, rtol=1e-6, atol=1e-6)


def drive(graph, audio, run=None):
    """Run a recording through a stream's graph as a caller does, by its description alone."""
    about, run = describe_graph(graph), run or graph
    state = [torch.zeros(port["shape"], dtype=getattr(torch, port["dtype"])) for port in about["state"]]
    lead, size, found = about["lead_samples"], about["piece_samples"], []
    padded = np.pad(audio, (lead, 0))
    for start in range(0, len(audio), about["step_samples"]):
        piece = padded[start : start + size]
        samples = torch.from_numpy(np.pad(piece, (0, size - len(piece))))[None]
        probs, lengths, *state = (torch.as_tensor(value) for value in run(samples, torch.tensor([len(piece)]), *state))
        found.append(probs[0, : int(lengths[0])].numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("level", ["peak", "rms", "none"])
@pytest.mark.parametrize("samples", [389_123, 100_480, 3_333, 70])
@torch.no_grad()
def test_a_stream_by_its_graph_is_our_stream(model, make_audio, level, samples):
    model.config.level = level
    audio = make_audio(samples / 16_000 + 0.01, seed=3)[:samples]
    expected = np.concatenate(
        [update.probs for update in stream(model, [audio], latency=LATENCY, override_config=HEADS)]
    )
    graph = StreamGraph(model, streaming_settings(None, LATENCY), from_audio=True)
    found = drive(graph, audio)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


@torch.no_grad()
def test_a_stream_that_has_nothing_new_stays_as_it_is(model, make_audio):
    graph = StreamGraph(model, streaming_settings(None, LATENCY), from_audio=True)
    size = graph.front_end.piece_samples
    audio = torch.from_numpy(make_audio(4.0))[None, :size]
    _, _, *state = graph(audio, torch.tensor([size]), *graph.empty_state(1).values())
    probs, lengths, *after = graph(audio, torch.tensor([0]), *state)
    assert lengths.tolist() == [0]
    assert not probs.any()
    for name, old, new in zip(graph.empty_state(1), state, after, strict=True):
        assert torch.equal(old, new), name


def test_the_description_says_what_a_caller_needs(model):
    about = describe_graph(StreamGraph(model, streaming_settings(None, LATENCY), from_audio=True))
    assert about["sample_rate"] == 16_000
    assert about["frame_seconds"] == 0.08
    assert about["slots"] == 4
    assert about["latency"]["chunk_len"] == 6
    assert about["latency_seconds"] == pytest.approx(1.04)
    assert about["mel"]["features"] == streaming_mel(model).bands
    assert {"level", "mel_mean", "cache", "fifo"} <= {port["name"] for port in about["state"]}
    model.config.level = "none"
    mel = describe_graph(StreamGraph(model, streaming_settings(None, LATENCY), from_audio=False))
    assert "level" not in {port["name"] for port in mel["state"]}
    assert "piece_samples" not in mel


@pytest.mark.parametrize(
    "options, message",
    [
        ({"file_format": "tf"}, "`file_format` must be `onnx` or `torch`, but is `tf`"),
        ({"source": "video"}, "`source` must be"),
        ({"file_format": "torch", "int8": True}, "`int8` needs"),
        ({"latency": "1.04s"}, "`latency` is that of a stream"),
        ({"streaming": True, "latency": "2s"}, "`latency` must be one of"),
    ],
)
def test_wrong_arguments_are_named(model, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        export_model(model, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    with pytest.raises(ImportError, match=r"`onnxruntime` must be installed.*nemo_sortformer\[export\]"):
        export_model(model, tmp_path)
