# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The SortFormer encoder: what it may depend on, and what it may not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder, label_feedback

KINDS = [
    pytest.param({}, id="offline"),
    pytest.param({"measure": "hard"}, id="hard"),
    pytest.param({"positions": "none"}, id="no positions"),
    pytest.param({"conv_kernel": 0}, id="no convolution"),
    pytest.param({"causal": True}, id="causal"),
    pytest.param({"causal": True, "positions": "rope"}, id="causal rope"),
    pytest.param({"sort": False}, id="unsorted"),
    pytest.param({"feedback": False}, id="no feedback"),
]
SORTED = KINDS[:6]


def run(encoder, states, mask=None):
    with torch.no_grad():
        return encoder(encoder_states=states, encoder_mask=mask)


def reorder_rows(encoder, layer, order):
    labels = encoder.layers[layer].feedback.labels
    with torch.no_grad():
        labels.weight.copy_(labels.weight[list(order)])
        labels.bias.copy_(labels.bias[list(order)])


@pytest.mark.parametrize("kind", SORTED)
def test_reordering_the_rows_of_the_label_heads_changes_nothing_after_them(kind, build_sortformer, random_states):
    @settings(max_examples=10)
    @given(orders=st.lists(st.permutations(range(4)), min_size=3, max_size=3), seed=st.integers(0, 99))
    def check(orders, seed):
        encoder, states = build_sortformer(seed, **kind), random_states(seed=seed)
        mask = lengths_to_mask(torch.tensor([50, 31, 8]), 50)
        before = run(encoder, states, mask)
        for layer, order in enumerate(orders):
            reorder_rows(encoder, layer, order)
        assert_close(run(encoder, states, mask), before, atol=1e-9, rtol=0)

    check()


def test_without_the_sort_reordering_the_rows_does_change_the_output(build_sortformer, random_states):
    encoder, states = build_sortformer(sort=False), random_states()
    before = run(encoder, states)
    reorder_rows(encoder, 0, [1, 2, 3, 0])
    assert (run(encoder, states) - before).abs().max() > 1e-3


@pytest.mark.parametrize("rope", ["rope", "none"])
def test_in_causal_mode_the_past_does_not_know_the_future(rope, build_sortformer, random_states):
    for seed in range(5):
        encoder, states = build_sortformer(seed, causal=True, positions=rope), random_states(frames=64, seed=seed)
        whole = run(encoder, states)
        for frames in (1, 2, 7, 33, 63):
            assert_close(run(encoder, states[:, :frames]), whole[:, :frames], atol=1e-9, rtol=0)


def test_without_the_arrival_gate_the_past_knows_the_future(build_sortformer, random_states, monkeypatch):
    monkeypatch.setattr(label_feedback, "arrival_gate", lambda probs, lengths: torch.ones_like(probs))
    encoder, states = build_sortformer(causal=True), random_states(frames=64)
    whole = run(encoder, states)
    leaks = [(run(encoder, states[:, :frames]) - whole[:, :frames]).abs().max() for frames in (1, 7, 33)]
    assert max(leaks) > 1e-6


def test_an_offline_encoder_does_look_ahead(build_sortformer, random_states):
    encoder, states = build_sortformer(), random_states()
    assert (run(encoder, states[:, :25]) - run(encoder, states)[:, :25]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_items_give_one_by_one(kind, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind), random_states()
    lengths = torch.tensor([50, 31, 1])
    together, labels = encoder.forward_with_labels(states, lengths_to_mask(lengths, 50))
    for item, length in enumerate(lengths.tolist()):
        alone, labels_alone = encoder.forward_with_labels(states[item : item + 1, :length])
        assert_close(together[item : item + 1, :length], alone, atol=1e-9, rtol=0)
        for layer, layer_alone in zip(labels, labels_alone, strict=True):
            assert_close(layer[item : item + 1, :length], layer_alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [1e6, float("inf"), float("nan")])
def test_padding_is_not_read_and_comes_out_zero(kind, garbage, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind), random_states()
    mask = lengths_to_mask(torch.tensor([50, 31, 8]), 50)
    output = run(encoder, states.masked_fill(~mask[..., None], garbage), mask)
    assert torch.equal(output, run(encoder, states, mask))
    assert (output[~mask] == 0).all()
    assert (output[mask] != 0).any(dim=-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_without_a_valid_frame_makes_no_nan(kind, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind).train(), random_states().requires_grad_()
    output = encoder(encoder_states=states, encoder_mask=lengths_to_mask(torch.tensor([50, 0, 8]), 50))
    output.square().sum().backward()
    assert output.isfinite().all()
    assert states.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_the_mask_may_be_of_any_type(dtype, build_sortformer, random_states):
    encoder, states = build_sortformer(), random_states()
    mask = lengths_to_mask(torch.tensor([50, 31, 8]), 50)
    assert torch.equal(run(encoder, states, mask.to(dtype)), run(encoder, states, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_from_the_output_alone(kind, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind).train(), random_states()
    (encoder(encoder_states=states) * random_states(seed=2)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        # Without positions, one vector added to all keys moves all scores of a query alike: softmax does not see it.
        if not name.endswith("key_net.bias"):
            assert parameter.grad.abs().max() > 0, name


def test_the_label_estimates_come_in_order_of_arrival_one_set_per_layer_but_the_last(build_sortformer, random_states):
    encoder, states = build_sortformer(measure="hard"), random_states(frames=40)
    lengths = torch.tensor([40, 40, 25])
    _, labels = encoder.forward_with_labels(states, lengths_to_mask(lengths, 40))
    assert [tuple(layer.shape) for layer in labels] == [(3, 40, 4)] * 3
    num_active = 0
    for layer in labels:
        active = (layer > 0) & lengths_to_mask(lengths, 40)[..., None]
        first = torch.where(active.any(1), active.int().argmax(1), 40)
        assert (first.diff(dim=1) >= 0).all()
        num_active += int((first < 40).sum())
    assert num_active > 10  # otherwise the check above has seen silence only
    assert build_sortformer(feedback=False).forward_with_labels(states)[1] == []


def test_a_supervised_estimate_reaches_its_head(build_sortformer, random_states):
    encoder = build_sortformer()
    encoder.forward_with_labels(random_states())[1][0].sum().backward()
    assert encoder.layers[0].feedback.labels.weight.grad.abs().max() > 0


def test_the_control_without_sort_has_the_same_parameters(build_sortformer):
    shapes = [{k: v.shape for k, v in build_sortformer(sort=sort).state_dict().items()} for sort in (True, False)]
    assert shapes[0] == shapes[1]


def test_the_switches_make_a_difference(build_sortformer, random_states):
    states = random_states()
    kinds = [{}, {"sort": False}, {"feedback": False}, {"measure": "hard"}, {"positions": "none"}, {"conv_kernel": 0}]
    kinds += [{"causal": True}, {"hidden_act": "relu"}, {"pre_ln_final_layer_norm": False}, {"conv_kernel": 7}]
    outputs = [run(build_sortformer(**kind), states) for kind in kinds]
    for i, first in enumerate(outputs):
        for j in range(i):
            assert not torch.allclose(first, outputs[j], atol=1e-4), (kinds[i], kinds[j])


@pytest.mark.parametrize("name", ["dropout", "attn_score_dropout", "attn_layer_dropout", "ffn_dropout"])
def test_each_dropout_acts_in_training_only(name, build_sortformer, random_states):
    rates = {"dropout": 0.0, name: 0.4}
    encoder, states = build_sortformer(**rates), random_states()
    assert torch.equal(run(encoder, states), run(encoder, states))
    encoder.train()
    assert not torch.equal(run(encoder, states), run(encoder, states))


@pytest.mark.parametrize("kind", KINDS)
def test_under_bf16_autocast_the_output_stays_near(kind, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind).float(), random_states().float()
    mask = lengths_to_mask(torch.tensor([50, 31, 8]), 50)
    with torch.autocast("cpu", torch.bfloat16):
        output, labels = encoder.forward_with_labels(states, mask)
        output.float().square().mean().backward()
    assert output.isfinite().all()
    assert all(layer.dtype == torch.float32 for layer in labels)
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    # Rounding may swap two who arrive together, so the mean is compared and not the largest difference.
    assert (output - run(encoder, states, mask)).abs().mean() < 0.1


def test_it_runs_in_bf16_throughout(build_sortformer, random_states):
    encoder, states = build_sortformer().bfloat16(), random_states().bfloat16()
    output = run(encoder, states, lengths_to_mask(torch.tensor([50, 31, 8]), 50))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("kind", SORTED)
@pytest.mark.parametrize("length", [600, 400])
def test_no_tensor_is_quadratic_in_the_frames(kind, length, build_sortformer, random_states):
    encoder, states = build_sortformer(**kind).train(), random_states(batch=1, frames=600).requires_grad_()
    with LargestTensor() as largest:
        encoder(encoder_states=states, encoder_mask=lengths_to_mask(torch.tensor([length]), 600)).sum().backward()
    assert 600 * 48 <= largest.numel < 600 * 600 / 4


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_a_value_on_the_device(kind):
    encoder = SortformerEncoder(2, 24, 48, 3, **kind).to("meta")  # a meta tensor has no values: asking for one raises
    mask = torch.ones(2, 30, dtype=torch.bool, device="meta")
    output = encoder(encoder_states=torch.zeros(2, 30, 24, device="meta"), encoder_mask=mask)
    assert output.shape == (2, 30, 24)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SORTED)
def test_it_exports_with_any_batch_and_length(kind, build_sortformer, random_states):
    encoder = build_sortformer(**kind)
    encoder.forward = encoder.forward_with_labels
    states, mask = random_states(batch=2, frames=30), lengths_to_mask(torch.tensor([30, 21]), 30)
    batch, frames = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("frames", min=2, max=4096)
    shapes = ({0: batch, 1: frames}, {0: batch, 1: frames})
    program = torch.export.export(encoder, (states, mask), dynamic_shapes=shapes)
    states, mask = random_states(batch=3, frames=47), lengths_to_mask(torch.tensor([47, 21, 8]), 47)
    assert_close(program.module()(states, mask)[0], encoder.forward_with_labels(states, mask)[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_layers": 0}, "`num_layers` must be at least 1"),
        ({"num_labels": 0}, "`num_labels` must be at least 1"),
        ({"num_attention_heads": 5}, "`num_attention_heads` must divide `hidden_size`"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must divide `hidden_size`"),
        ({"num_attention_heads": 8}, "attention heads of even width"),
        ({"conv_kernel": 4}, "`conv_kernel` must be odd"),
        ({"conv_kernel": -1, "causal": True}, "`conv_kernel` must be odd"),
        ({"positions": "sinus"}, "`positions` must be"),
        ({"measure": "mass"}, "`measure` must be"),
        ({"measure": "soft", "causal": True}, "looks at frames to come"),
        ({"hidden_act": "swish"}, "`hidden_act` must be one of"),
        ({"pre_ln": False}, "`pre_ln` must be true"),
        ({"dropout": 1.5}, "`dropout` must be in"),
    ],
)
def test_settings_that_make_no_encoder_are_named(wrong, message, build_sortformer):
    with pytest.raises(ValueError, match=message):
        build_sortformer(**wrong)


def test_ports_are_checked(build_sortformer, random_states):
    encoder, states = build_sortformer(), random_states()
    with pytest.raises(TypeError):
        encoder(states)
    with pytest.raises(TypeError):
        encoder(encoder_states=states[0])
    with pytest.raises(ValueError, match="`encoder_mask` must have the shape"):
        encoder(encoder_states=states, encoder_mask=torch.ones(3, 49))
