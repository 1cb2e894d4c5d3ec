# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labels from affinities: the sorted truth where voices are apart, whoever they are, also without the future."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.affinity_labels import labels_from_affinities
from nemo_sortformer.functional.arrival import sort_by_arrival

SHARP = {"smooth_frames": 1, "seed_frames": 1}


def talk(classes, *, turn=20, turns=12, dim=16, seed=0, noise=0.0):
    """Embeddings (1, T, dim), speech (1, T) and truth (1, T, classes): each class speaks once, then anybody does."""
    generator = torch.Generator().manual_seed(seed)
    voices = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0][:classes]
    order = [*torch.randperm(classes, generator=generator).tolist()]
    order += torch.randint(classes, (turns - classes,), generator=generator).tolist()
    truth = F.one_hot(torch.tensor(order), classes).repeat_interleave(turn, 0).float()
    truth[::turn] = 0.0  # a short pause between turns
    embeddings = truth @ voices + noise * torch.randn(len(truth), dim, generator=generator) / dim**0.5
    return F.normalize(embeddings, dim=-1)[None], truth.any(-1).float()[None], truth[None]


def by_the_equations(embeddings, speech, num_labels, mask, *, scale, margin, frames=13, refinements=2, causal=False):
    """The equations of the docstring as they stand there, with every frame's vectors for every column."""

    def mean(x):  # (B, T, D)
        before = frames - 1 if causal else frames // 2
        padded = F.pad(x, (0, 0, before, frames - 1 - before))
        return torch.stack([padded[:, t : t + frames].mean(dim=1) for t in range(x.shape[1])], dim=1)

    def total(x):
        return x.cumsum(dim=1) if causal else x.sum(dim=1, keepdim=True)

    embeddings, speech = embeddings * mask[..., None], speech * mask
    voices = F.normalize(mean(embeddings * speech[..., None]), dim=-1, eps=1e-6)
    left, columns = speech, []
    heard = mean(speech[..., None])[..., 0]
    for _ in range(num_labels):
        unexplained = heard * left / speech.clamp(min=1e-6) if causal else mean(left[..., None])[..., 0]
        g = torch.sigmoid(32.0 * (unexplained - 0.6)).clamp(max=1 - 1e-4) * mask
        not_yet = torch.cat([torch.ones_like(g[:, :1]), (1 - g).cumprod(dim=1)[:, :-1]], dim=1)
        w = g * not_yet
        found = total(w)
        seed = (w if causal else mean(w[..., None])[..., 0]) * left
        weights = seed
        for _ in range(refinements + 1):
            p = F.normalize(total(weights[..., None] * voices) + 1e-6, dim=-1)
            a = torch.sigmoid(scale * ((voices * p).sum(-1) - margin)) * found
            weights = a * left + seed if causal else a * left
        columns.append(speech * a)
        left = left * (1 - a)
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("refinements", [0, 2])
@settings(max_examples=15)
@given(num_labels=st.integers(1, 5), frames=st.sampled_from([1, 5, 13]), seed=st.integers(0, 2**16))
def test_values_and_all_gradients_are_those_of_the_equations(num_labels, frames, seed, refinements, causal):
    generator = torch.Generator().manual_seed(seed)
    talks = [talk(3, turn=5, turns=8, seed=seed + item, noise=0.6) for item in range(2)]
    embeddings = torch.cat([one[0] for one in talks]).double()
    speech = torch.cat([one[1] for one in talks]).double()
    speech = (speech * torch.rand(speech.shape, generator=generator)).clamp(min=0.01)
    mask = torch.arange(40)[None] < torch.tensor([[40], [23]])
    results = []
    for function, names in (
        (labels_from_affinities, ("smooth_frames", "seed_frames")),
        (by_the_equations, ("frames",)),
    ):
        inputs = [embeddings, speech, torch.tensor(7.0).double(), torch.tensor(0.3).double()]
        inputs = [one.clone().requires_grad_() for one in inputs]
        settings = dict.fromkeys(names, frames) | {"refinements": refinements, "causal": causal}
        labels = function(*inputs[:2], num_labels, mask, scale=inputs[2], margin=inputs[3], **settings)
        weight = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (labels * weight).sum().backward()
        results.append([labels, *(one.grad for one in inputs)])
    for found, wanted in zip(*results, strict=True):
        assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_numbers_that_are_not_learnt_need_no_gradient():
    embeddings, speech, _ = talk(3, noise=0.3)
    embeddings.requires_grad_()
    labels_from_affinities(embeddings, speech, 4).sum().backward()
    assert embeddings.grad.abs().max() > 0


def test_training_keeps_little_more_than_some_numbers_per_frame():
    kept = []
    for num_labels in (4, 16):
        embeddings = F.normalize(torch.randn(1, 300, 256), dim=-1).requires_grad_()
        storages = {}

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            labels_from_affinities(embeddings, torch.rand(1, 300), num_labels)
        kept.append(sum(storages.values()))
    assert kept[1] - kept[0] < 12 * 20 * 4 * 300, "twenty numbers per frame and column, and no vector of 256"


@pytest.mark.parametrize("causal", [False, True])
@given(classes=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_voices_that_are_apart_give_the_labels_in_order_of_arrival(classes, seed, causal):
    embeddings, speech, truth = talk(classes, seed=seed)
    found = labels_from_affinities(embeddings, speech, 6, causal=causal, **SHARP) > 0.5
    assert_close(found[..., :classes].float(), sort_by_arrival(truth))
    assert not found[..., classes:].any()


@pytest.mark.parametrize("causal", [False, True])
@given(seed=st.integers(0, 2**16))
def test_nearly_all_is_right_with_noise_and_smoothing(seed, causal):
    embeddings, speech, truth = talk(3, seed=seed, noise=0.7, turn=40)
    found = labels_from_affinities(embeddings, speech, 4, causal=causal) > 0.5
    # without the future a voice is known only when it has been heard for most of the frames that open a column
    least = 0.7 if causal else 0.9
    assert (found[..., :3].float() == sort_by_arrival(truth)).float().mean() > least


@given(seed=st.integers(0, 2**16), past=st.integers(1, 239))
def test_a_causal_answer_does_not_depend_on_what_comes(seed, past):
    embeddings, speech, _ = talk(4, seed=seed, noise=0.5)
    whole = labels_from_affinities(embeddings, speech, 4, causal=True)
    cut = labels_from_affinities(embeddings[:, :past], speech[:, :past], 4, causal=True)
    assert_close(whole[:, :past], cut)


def test_padding_changes_nothing():
    embeddings, speech, _ = talk(3, noise=0.3)
    alone = labels_from_affinities(embeddings, speech, 4)
    rubbish = F.normalize(torch.randn(1, 50, 16), dim=-1)
    mask = torch.arange(alone.shape[1] + 50)[None] < alone.shape[1]
    padded = labels_from_affinities(torch.cat([embeddings, rubbish], 1), F.pad(speech, (0, 50), value=0.9), 4, mask)
    assert_close(padded[:, : alone.shape[1]], alone)
    assert padded[:, alone.shape[1] :].abs().max() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_finite_also_in_silence(causal):
    embeddings = F.normalize(torch.randn(2, 60, 8), dim=-1).requires_grad_()
    speech = torch.rand(2, 60)
    speech[1] = 0.0
    speech.requires_grad_()
    labels_from_affinities(embeddings, speech, 4, causal=causal).square().sum().backward()
    assert embeddings.grad.isfinite().all()
    assert speech.grad.isfinite().all()
    assert embeddings.grad[0].abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speech": torch.ones(1, 9)}, "same frames"),
        ({"num_labels": 0}, "num_labels"),
        ({"smooth_frames": 4}, "odd"),
        ({"refinements": -1}, "refinements"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"embeddings": torch.ones(1, 10, 4), "speech": torch.ones(1, 10), "num_labels": 2} | change
    with pytest.raises(ValueError, match=message):
        labels_from_affinities(**arguments)
