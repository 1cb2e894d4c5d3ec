# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The Transformer state encoder against NeMo's with the same weights."""

import pytest
import torch
from nemo.collections.asr.modules.transformer.transformer_encoders import TransformerEncoder
from torch.testing import assert_close

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import TransformerStateEncoder

SIZES = {"num_layers": 3, "hidden_size": 32, "inner_size": 64, "num_attention_heads": 4}
KINDS = [
    pytest.param({}, id="post norm"),
    pytest.param({"pre_ln": True}, id="pre norm"),
    pytest.param({"pre_ln": True, "pre_ln_final_layer_norm": False}, id="no last norm"),
    pytest.param({"hidden_act": "gelu"}, id="gelu"),
    pytest.param({"mask_future": True}, id="causal"),
    pytest.param({"num_attention_heads": 1}, id="one head"),
]


def twins(seed=0, **settings):
    """NeMo's encoder and ours, with the same weights; the norms' are random too, as after training."""
    torch.manual_seed(seed)
    theirs = TransformerEncoder(**{**SIZES, **settings})
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    ours = TransformerStateEncoder(**{**SIZES, **settings})
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval()


def same_on_valid_frames(theirs, ours, states, mask, atol=1e-6):
    expected = theirs(encoder_states=states, encoder_mask=mask)
    output = ours(encoder_states=states, encoder_mask=mask)
    valid = mask.bool()
    assert_close(output[valid], expected[valid], atol=atol, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
@pytest.mark.parametrize("lengths", [(40, 25, 1), (40, 40, 40)], ids=["padded", "full"])
def test_it_gives_nemos_numbers_with_nemos_weights(kind, dtype, lengths):
    theirs, ours = twins(**kind)
    same_on_valid_frames(theirs, ours, torch.randn(3, 40, 32), lengths_to_mask(torch.tensor(lengths), 40).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_nemos(kind):
    theirs, ours = (encoder.double() for encoder in twins(**kind))
    states, weights = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    mask = lengths_to_mask(torch.tensor([40, 25, 1]), 40)
    for encoder in (theirs, ours):
        (encoder(encoder_states=states, encoder_mask=mask) * weights)[mask].sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, expected[name].grad, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("ahead", [0, 3, 7])
@pytest.mark.parametrize("lengths", [(40, 25, 1), (40, 40, 40)], ids=["padded", "full"])
def test_a_limited_view_ahead_is_nemos(ahead, lengths):
    theirs, ours = twins()
    theirs.diag = ours.diag = ahead
    same_on_valid_frames(theirs, ours, torch.randn(3, 40, 32), lengths_to_mask(torch.tensor(lengths), 40))


def test_padding_may_be_anywhere():
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    same_on_valid_frames(*twins(), torch.randn(3, 40, 32), mask)


def test_the_published_size_agrees():
    torch.manual_seed(0)
    sizes = {"num_layers": 18, "hidden_size": 192, "inner_size": 768, "num_attention_heads": 8}
    theirs, ours = TransformerEncoder(**sizes).eval(), TransformerStateEncoder(**sizes).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    mask = lengths_to_mask(torch.tensor([188, 100]), 188)
    same_on_valid_frames(theirs, ours, torch.randn(2, 188, 192), mask, atol=5e-6)


def test_the_arguments_are_nemos_in_nemos_order():
    positional = (2, 32, 64, False, 4, 0.1, 0.1, 0.1, "relu", True, False)
    theirs, ours = TransformerEncoder(*positional), TransformerStateEncoder(*positional)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["attn_score_dropout", "attn_layer_dropout", "ffn_dropout"])
@pytest.mark.parametrize("pre_ln", [False, True])
def test_each_dropout_is_where_nemo_has_it(name, pre_ln):
    theirs, ours = twins(num_layers=1, pre_ln=pre_ln, **{name: 0.5})
    states, mask = torch.randn(1, 10, 32), torch.ones(1, 10)
    means = []
    for encoder in (theirs.train(), ours.train()):
        torch.manual_seed(0)
        with torch.no_grad():
            means.append(encoder(encoder_states=states.expand(4000, -1, -1), encoder_mask=mask.expand(4000, -1)))
    first, second = means
    assert (second.std(0) > 0).all()
    assert_close(second.mean(0), first.mean(0), atol=0.15, rtol=0)
    assert_close(second.std(0), first.std(0), atol=0.15, rtol=0)


def test_padding_is_not_read_and_comes_out_zero():
    _, ours = twins()
    states, mask = torch.randn(3, 40, 32), lengths_to_mask(torch.tensor([40, 25, 0]), 40)
    output = ours(encoder_states=states.masked_fill(~mask[..., None], float("nan")), encoder_mask=mask)
    assert torch.equal(output, ours(encoder_states=states, encoder_mask=mask))
    assert (output[~mask] == 0).all()


def test_a_batch_gives_what_its_items_give_one_by_one():
    _, ours = twins()
    states, lengths = torch.randn(3, 40, 32), [40, 25, 1]
    together = ours(encoder_states=states, encoder_mask=lengths_to_mask(torch.tensor(lengths), 40))
    for item, length in enumerate(lengths):
        alone = ours(encoder_states=states[item : item + 1, :length])
        assert_close(together[item : item + 1, :length], alone, atol=2e-6, rtol=1e-5)


def test_the_past_does_not_know_the_future():
    _, ours = twins(mask_future=True)
    states = torch.randn(2, 40, 32)
    for mask in (None, lengths_to_mask(torch.tensor([40, 33]), 40)):
        whole = ours(encoder_states=states, encoder_mask=mask)
        assert_close(whole[:, :20], ours(encoder_states=states[:, :20]), atol=2e-6, rtol=1e-5)


def test_it_has_the_interface_of_the_sortformer_encoder():
    _, ours = twins()
    states = torch.randn(2, 40, 32)
    output, labels = ours.forward_with_labels(states, None)
    assert torch.equal(output, ours(encoder_states=states))
    assert labels == []
    assert ours.hidden_size == 32


def test_under_bf16_autocast_the_output_stays_near():
    _, ours = twins(pre_ln=True)
    states, mask = torch.randn(3, 40, 32), lengths_to_mask(torch.tensor([40, 25, 1]), 40)
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(encoder_states=states, encoder_mask=mask)
    assert (output - ours(encoder_states=states, encoder_mask=mask)).abs().mean() < 0.05


def test_wrong_settings_and_inputs_are_named():
    with pytest.raises(ValueError, match="`num_layers` must be at least 1"):
        TransformerStateEncoder(0, 32, 64)
    with pytest.raises(ValueError, match="`num_attention_heads` must divide"):
        TransformerStateEncoder(1, 32, 64, num_attention_heads=5)
    with pytest.raises(ValueError, match="`hidden_act` must be one of"):
        TransformerStateEncoder(1, 32, 64, hidden_act="silu")
    with pytest.raises(ValueError, match="`encoder_mask` must have the shape"):
        twins()[1](encoder_states=torch.randn(3, 40, 32), encoder_mask=torch.ones(3, 41))
