# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The picture of the permutation encoding: what is picked up is what the layers do, and nothing stays behind."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.arrival import arrival_gate, sort_by_arrival
from nemo_sortformer.inference.encoding_picture import plot_encoding, recorded_estimates, trace_encoding
from nemo_sortformer.models.labeler import SortformerLabeler
from nemo_sortformer.modules import SortformerEncoder


def make_model(**changes):
    torch.manual_seed(2)
    encoder = {
        "_target_": "nemo_sortformer.modules.SortformerEncoder",
        "num_layers": 4,
        "hidden_size": 16,
        "inner_size": 32,
        "num_attention_heads": 2,
        "dropout": 0.0,
        "conv_kernel": 5,
        **changes,
    }
    cfg = {"input_dim": 6, "max_num_of_classes": 4, "encoder": encoder, "frame_seconds": 0.5}
    model = SortformerLabeler(cfg=OmegaConf.create(cfg))
    for layer in model.state_encoder.layers:
        if layer.feedback is not None:
            torch.nn.init.normal_(layer.feedback.labels.weight)
            torch.nn.init.zeros_(layer.feedback.labels.bias)
    return model


SEQUENCE = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_after_is_before_sorted_by_arrival(causal):
    measure = "hard" if causal else "soft"
    trace = trace_encoding(make_model(causal=causal), SEQUENCE)
    assert len(trace.layers) == 3
    moved = False
    for layer in trace.layers:
        before = torch.from_numpy(layer.before)[None]
        expected = sort_by_arrival(before, measure=measure, causal=causal)
        if causal:
            expected = expected * arrival_gate(expected)
        np.testing.assert_allclose(layer.after, expected[0], atol=1e-6)
        ungated = layer.before[:, layer.order]
        np.testing.assert_allclose(np.where(layer.after > 0, layer.after, ungated), ungated, atol=1e-6)
        moved = moved or layer.order.tolist() != [0, 1, 2, 3]
    assert moved  # else this test shows nothing


def test_without_sorting_nothing_moves():
    trace = trace_encoding(make_model(sort=False), SEQUENCE)
    for layer in trace.layers:
        np.testing.assert_array_equal(layer.before, layer.after)
        assert layer.order.tolist() == [0, 1, 2, 3]


def test_looking_changes_neither_the_answer_nor_the_model():
    model = make_model().train()
    with torch.no_grad():
        answer = model.eval()(embeddings=torch.from_numpy(SEQUENCE)[None], lengths=torch.tensor([50])).probs[0]
    model.train()
    np.testing.assert_allclose(trace_encoding(model, SEQUENCE).probs, answer, atol=1e-6)
    assert model.training
    hooks = [len(m._forward_hooks) for m in model.modules()]
    assert not any(hooks)
    with pytest.raises(RuntimeError), recorded_estimates(model):
        raise RuntimeError
    assert not any(len(m._forward_hooks) for m in model.modules())


def test_a_model_without_estimates_is_refused():
    with pytest.raises(ValueError, match="no layer that estimates labels"):
        trace_encoding(make_model(feedback=False), SEQUENCE)
    with pytest.raises(ValueError, match="`sequence` must have one frame or more"):
        trace_encoding(make_model(), SEQUENCE[:0])


def test_estimates_of_a_bare_encoder_can_be_recorded():
    encoder = SortformerEncoder(3, 8, 16, 2, num_labels=2)
    with recorded_estimates(encoder) as found:
        _, logits = encoder.forward_with_labels(torch.randn(2, 7, 8), torch.ones(2, 7))
    assert len(found) == len(logits) == 2
    assert torch.equal(found[1][1], logits[1])


def test_a_diarizer_is_drawn_too(tiny_model, tmp_path):
    audio = np.random.default_rng(0).normal(size=32000).astype(np.float32) * 0.1
    trace = trace_encoding(tiny_model, audio)
    assert trace.probs.shape == (25, 4)
    assert trace.frame_seconds == 0.08
    plot_encoding(trace, path=tmp_path / "audio.png")
    assert (tmp_path / "audio.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "truth", [None, [], [Segment(1.0, 9.0, "b"), Segment(0.0, 4.0, "a"), Segment(12.0, 13.0, "b")]]
)
def test_the_picture_has_a_row_per_layer_the_answer_and_the_truth(tmp_path, truth):
    figure = plot_encoding(trace_encoding(make_model(), SEQUENCE), truth=truth, path=tmp_path / "x.png", title="name")
    assert len(figure.axes) == 3 * 3 + 1 + (truth is not None)
    assert (tmp_path / "x.png").stat().st_size > 5000
    assert figure.texts[0].get_text() == "name"
    assert ("Black line" in figure.texts[-1].get_text()) == (truth is not None)
    if truth:
        lanes = figure.axes[-1].collections
        starts = [[path.get_extents().x0 for path in lane.get_paths()] for lane in lanes]
        assert starts == [[0.0], [1.0, 12.0]]  # by arrival
