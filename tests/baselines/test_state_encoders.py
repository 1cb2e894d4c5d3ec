# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Deep Sets, Set Transformer and the auxiliary encoder: what they must not notice, and one layer by hand."""

import pytest
import torch

from nemo_sortformer.baselines import AuxiliaryLabelEncoder, DeepSetsEncoder, SetTransformerEncoder
from nemo_sortformer.baselines.set_transformer_encoder import AttentionBlock
from nemo_sortformer.functional.arrival import arrival_frames
from nemo_sortformer.modules import SortformerEncoder

SET_ENCODERS = {
    "deep sets": lambda: DeepSetsEncoder(3, 24, 40),
    "set transformer": lambda: SetTransformerEncoder(3, 24, 40, 4),
    "with inducing points": lambda: SetTransformerEncoder(2, 24, 40, 4, num_inducing_points=5),
}
of_sets = pytest.mark.parametrize("kind", SET_ENCODERS)


def build(kind, seed=0):
    torch.manual_seed(seed)
    return SET_ENCODERS[kind]().double().eval()


def states(batch=3, frames=11, seed=1):
    return torch.randn(batch, frames, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@of_sets
def test_the_order_of_the_frames_changes_the_order_of_the_answers_and_nothing_else(kind):
    encoder, x = build(kind), states()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(encoder(encoder_states=x[:, order]), encoder(encoder_states=x)[:, order])


@of_sets
def test_a_frame_depends_on_the_others(kind):
    encoder, x = build(kind), states()
    other = x.clone()
    other[:, 5, 0] += 1.0
    change = (encoder(encoder_states=other) - encoder(encoder_states=x)).abs().amax(dim=2)
    assert (change > 1e-9).all()


@of_sets
def test_padding_and_neighbours_change_nothing(kind):
    encoder, x = build(kind), states()
    mask = torch.arange(11) < torch.tensor([11, 6, 0])[:, None]
    filled = torch.where(mask[:, :, None], x, torch.nan)
    answer, layers = encoder.forward_with_labels(filled, mask)
    assert layers == []
    torch.testing.assert_close(answer[1:2, :6], encoder(encoder_states=x[1:2, :6]))
    assert torch.equal(answer[~mask], torch.zeros_like(answer[~mask]))
    assert answer.isfinite().all()


def test_a_deep_sets_layer_is_what_its_formula_says():
    encoder = build("deep sets")
    layer, x = encoder.layers[0], states(batch=1, frames=2)
    normed = torch.nn.functional.layer_norm(x, (24,))
    expected = []
    for t in range(2):
        mean = (normed[0, 0] + normed[0, 1]) / 2
        inner = layer.itself.weight @ normed[0, t] + layer.itself.bias + layer.pooled.weight @ mean
        expected.append(x[0, t] + layer.output.weight @ inner.clamp(min=0) + layer.output.bias)
    torch.testing.assert_close(layer(x, None)[0], torch.stack(expected))


def test_an_attention_block_is_torch_s_attention_with_two_norms():
    torch.manual_seed(0)
    block = AttentionBlock(24, 40, 4).double()
    queries, keys = states(frames=5), states(frames=7, seed=3)
    twin = torch.nn.MultiheadAttention(24, 4, batch_first=True).double()
    with torch.no_grad():
        nets = (block.query, block.key, block.value)
        twin.in_proj_weight.copy_(torch.cat([net.weight for net in nets]))
        twin.in_proj_bias.copy_(torch.cat([net.bias for net in nets]))
        twin.out_proj.weight.copy_(block.output.weight)
        twin.out_proj.bias.copy_(block.output.bias)
    hidden = torch.nn.functional.layer_norm(queries + twin(queries, keys, keys)[0], (24,))
    inner = block.feed_forward.dense_in(hidden).relu()
    expected = torch.nn.functional.layer_norm(hidden + block.feed_forward.dense_out(inner), (24,))
    torch.testing.assert_close(block(queries, keys), expected)


def test_the_auxiliary_encoder_estimates_labels_and_feeds_nothing_back():
    sizes = {"num_layers": 3, "hidden_size": 24, "inner_size": 40, "num_attention_heads": 2, "dropout": 0.0}
    torch.manual_seed(0)
    encoder = AuxiliaryLabelEncoder(**sizes, num_labels=3, conv_kernel=5).double().eval()
    plain = SortformerEncoder(**sizes, num_labels=3, conv_kernel=5, feedback=False).double().eval()
    missing = plain.load_state_dict(encoder.state_dict(), strict=False)
    assert not missing.missing_keys
    answer, layers = encoder.forward_with_labels(states())
    torch.testing.assert_close(answer, plain(encoder_states=states()))
    assert [logits.shape for logits in layers] == [(3, 11, 3)] * 2
    hard = AuxiliaryLabelEncoder(**sizes, num_labels=3, measure="hard").double().eval()
    for layer in hard.layers[:2]:
        torch.nn.init.normal_(layer.feedback.feedback.labels.weight, std=0.5)
    for logits in hard.forward_with_labels(states())[1]:
        assert (arrival_frames(logits.sigmoid()).diff(dim=1) >= 0).all()  # in order of arrival


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: DeepSetsEncoder(0, 24, 40), "num_layers"),
        (lambda: SetTransformerEncoder(0, 24, 40), "num_layers"),
        (lambda: SetTransformerEncoder(1, 24, 40, num_inducing_points=-1), "num_inducing_points"),
        (lambda: SetTransformerEncoder(1, 24, 40, 5), "must divide"),
    ],
)
def test_settings_that_make_no_encoder_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
