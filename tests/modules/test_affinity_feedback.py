# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""An encoder whose first layer estimates labels from affinities: padding, batches, causality, precision, export."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder

FRAMES = 50


def build(**changes):
    torch.manual_seed(0)
    arguments = {"num_layers": 3, "hidden_size": 16, "inner_size": 32, "num_attention_heads": 2, "conv_kernel": 5}
    arguments |= {"num_labels": 4, "dropout": 0.0, "affinity_layers": 1, "affinity_frames": 5}
    return SortformerEncoder(**(arguments | changes)).double().eval()


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, FRAMES, 16, generator=generator, dtype=torch.float64)
    embeddings = torch.randn(3, FRAMES, 8, generator=generator, dtype=torch.float64)
    return states, F.normalize(embeddings, dim=-1)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_a_batch_gives_what_its_items_give_and_padding_is_not_read(causal):
    encoder, (states, embeddings) = build(causal=causal), inputs()
    lengths = torch.tensor([50, 31, 8])
    mask = lengths_to_mask(lengths, FRAMES)
    together, labels = encoder.forward_with_labels(states, mask, embeddings=embeddings)
    for item, length in enumerate(lengths.tolist()):
        row, valid = slice(item, item + 1), slice(length)
        alone, own = encoder.forward_with_labels(states[row, valid], embeddings=embeddings[row, valid])
        assert_close(together[row, valid], alone)
        for a, b in zip(labels, own, strict=True):
            assert_close(a[row, valid], b)
    assert together[~mask].abs().max() == 0


@torch.no_grad()
def test_in_causal_mode_the_past_does_not_know_the_future():
    encoder, (states, embeddings) = build(causal=True), inputs()
    whole = encoder.forward_with_labels(states, embeddings=embeddings)[0]
    for past in (1, 17, 49):
        part = encoder.forward_with_labels(states[:, :past], embeddings=embeddings[:, :past])[0]
        assert_close(whole[:, :past], part)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[50, 1, 0], [0, 0, 0], [1, 1, 1]])
def test_recordings_of_no_frame_or_one_and_without_speech_make_no_nan(lengths, causal):
    encoder, (states, embeddings) = build(causal=causal).train(), inputs()
    with torch.no_grad():
        encoder.layers[0].feedback.speech.bias.fill_(-200.0)  # nobody speaks, as sure as numbers can be
    embeddings.requires_grad_()
    mask = lengths_to_mask(torch.tensor(lengths), FRAMES)
    output, labels = encoder.forward_with_labels(states, mask, embeddings=embeddings)
    (output.square().sum() + sum(one[mask].square().sum() for one in labels)).backward()
    assert output.isfinite().all()
    assert not output[~mask].any()
    assert all(one.isfinite().all() for one in labels)
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("garbage", [1e6, float("inf"), float("nan")])
@torch.no_grad()
def test_what_stands_in_the_padding_is_not_read(garbage):
    encoder, (states, embeddings) = build(), inputs()
    mask = lengths_to_mask(torch.tensor([50, 31, 8]), FRAMES)
    expected = encoder.forward_with_labels(states, mask, embeddings=embeddings)[0]
    states, embeddings = (x.masked_fill(~mask[..., None], garbage) for x in (states, embeddings))
    assert torch.equal(encoder.forward_with_labels(states, mask, embeddings=embeddings)[0], expected)


def test_label_estimates_are_of_who_is_alike():
    encoder = build(hidden_size=16)
    truth = F.one_hot(torch.tensor([2, 2, 0, 1, 0, 2]), 3).repeat_interleave(20, 0)
    voices = torch.eye(8, dtype=torch.float64)[:3]
    states = torch.randn(1, len(truth), 16, dtype=torch.float64)
    with torch.no_grad():
        encoder.layers[0].feedback.speech.bias.fill_(9.0)
        estimates = encoder.forward_with_labels(states, embeddings=(truth.double() @ voices)[None])[1][0] > 0
    inside = torch.ones(len(truth), dtype=torch.bool)
    for change in range(0, len(truth), 20):  # the mean over five frames takes a while to change over
        inside[max(change - 3, 0) : change + 3] = False
    assert_close(estimates[0, inside][:, :3].long(), truth[inside][:, [2, 0, 1]])
    assert not estimates[0, inside][:, 3].any()


def test_every_parameter_learns_and_so_do_the_embeddings():
    encoder, (states, embeddings) = build(), inputs()
    embeddings.requires_grad_()
    output, labels = encoder.forward_with_labels(states, embeddings=embeddings)
    (output * torch.randn_like(output)).sum().backward()
    assert embeddings.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_under_bf16_autocast_the_estimates_are_float32():
    encoder, (states, embeddings) = build().float(), (x.float() for x in inputs())
    exact = encoder.forward_with_labels(states, embeddings=embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        output, labels = encoder.forward_with_labels(states, embeddings=embeddings)
    assert labels[0].dtype == torch.float32
    assert_close(output.float(), exact[0], atol=0.2, rtol=0.2)


def test_without_embeddings_it_says_what_is_missing():
    with pytest.raises(ValueError, match="model.affinity"):
        build()(encoder_states=torch.zeros(1, 4, 16))
    with pytest.raises(ValueError, match="affinity_layers"):
        build(affinity_layers=3)
    with pytest.raises(ValueError, match="affinity_layers"):
        build(feedback=False)


@pytest.mark.slow
def test_it_exports_with_any_length():
    encoder, (states, embeddings) = build(), inputs()
    encoder.forward = encoder.forward_with_labels
    frames = torch.export.Dim("frames", min=16, max=4000)
    mask = torch.ones(3, FRAMES, dtype=torch.bool)
    program = torch.export.export(
        encoder, (states, mask, embeddings), dynamic_shapes=({1: frames}, {1: frames}, {1: frames})
    )
    states, embeddings = (x[:, :33] for x in inputs(1))
    expected = encoder.forward_with_labels(states, mask[:, :33], embeddings)[0]
    assert_close(program.module()(states, mask[:, :33], embeddings)[0], expected)
