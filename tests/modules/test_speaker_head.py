# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The speaker head against NeMo's `SortformerModules` with the same weights."""

import inspect

import pytest
import torch
from nemo.collections.asr.modules.sortformer_modules import SortformerModules
from torch.testing import assert_close

from nemo_sortformer.modules import SpeakerHead, speaker_head


def twins(**settings):
    torch.manual_seed(0)
    theirs = SortformerModules(fc_d_model=32, tf_d_model=16, **settings)
    ours = SpeakerHead(fc_d_model=32, tf_d_model=16, **settings)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("num_spks", [1, 4, 7])
def test_it_gives_nemos_numbers_with_nemos_weights(num_spks):
    theirs, ours = twins(num_spks=num_spks)
    states = torch.randn(2, 9, 32)
    projected = ours.project(states)
    assert torch.equal(projected, theirs.encoder_proj(states))
    logits = ours(states=projected)
    assert logits.shape == (2, 9, num_spks)
    assert_close(logits.sigmoid(), theirs.forward_speaker_sigmoids(projected))


def test_dropout_is_nemos():
    theirs, ours = twins(dropout_rate=0.3)
    states, probs = torch.randn(2, 9, 16), []
    torch.manual_seed(1)
    probs.append(theirs.train().forward_speaker_sigmoids(states))
    torch.manual_seed(1)
    probs.append(ours.train()(states=states).sigmoid())
    assert_close(*probs)
    assert not torch.allclose(probs[1], ours.eval()(states=states).sigmoid())


def test_its_weights_load_into_nemo():
    ours = SpeakerHead(fc_d_model=32, tf_d_model=16)
    SortformerModules(fc_d_model=32, tf_d_model=16).load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("fc_d_model", [16, None])
def test_equal_widths_need_no_projection(fc_d_model):
    head, states = SpeakerHead(fc_d_model=fc_d_model, tf_d_model=16), torch.randn(1, 5, 16)
    assert head.encoder_proj is None
    assert head.project(states) is states


def test_every_parameter_learns_but_the_one_that_nobody_uses():
    head = SpeakerHead(fc_d_model=32, tf_d_model=16, dropout_rate=0.0)
    head(states=head.project(torch.randn(2, 9, 32))).sum().backward()
    learning = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    frozen = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
    assert frozen == {"hidden_to_spks.weight", "hidden_to_spks.bias"}
    assert learning == set(dict(head.named_parameters())) - frozen


def test_nemos_streaming_keys_are_kept_and_unknown_ones_named(monkeypatch):
    warnings = []
    monkeypatch.setattr(speaker_head.logging, "warning", warnings.append)
    head = SpeakerHead(32, 16, spkcache_len=99)
    assert not warnings
    assert head.streaming["spkcache_len"] == 99
    assert head.streaming["chunk_len"] == 188
    head = SpeakerHead(32, 16, spkcache_refresh_rate=3, mem_len=5)
    assert warnings == ["SpeakerHead does not know the keys `mem_len`, `spkcache_refresh_rate` and ignores them."]
    assert "mem_len" not in head.streaming


def test_the_defaults_are_nemos():
    theirs = {name: p.default for name, p in inspect.signature(SortformerModules).parameters.items()}
    ours = {name: p.default for name, p in inspect.signature(SpeakerHead).parameters.items() if name != "streaming"}
    assert {**ours, **speaker_head.STREAMING_DEFAULTS} == theirs


@pytest.mark.parametrize(
    "wrong, message", [({"num_spks": 0}, "`num_spks`"), ({"dropout_rate": 1.0}, "`dropout_rate`")]
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpeakerHead(32, 16, **wrong)
