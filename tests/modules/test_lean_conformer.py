# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's Conformer encoder in little memory: its numbers for every form of it, its weights, its ways in training."""

import copy
import pickle

import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nemo_sortformer.modules import lean_conformer
from nemo_sortformer.modules.lean_conformer import LeanConformerEncoder, use_lean_inference

FORMS = {
    "published": {},
    "sdpa": {"use_pytorch_sdpa": True},
    "layer norm, tied biases": {"conv_norm_type": "layer_norm", "untie_biases": False, "xscaling": False},
    "absolute positions": {"self_attention_model": "abs_pos"},
    "striding": {"subsampling": "striding", "subsampling_factor": 4, "subsampling_conv_channels": 8},
    "limited context": {"att_context_size": [16, 8]},
    "chunks, causal": {
        "att_context_style": "chunked_limited",
        "att_context_size": [16, 3],
        "conv_context_size": "causal",
        "causal_downsampling": True,
    },
    "no bias": {"use_bias": False},
    "group norm": {"conv_norm_type": "group_norm4"},
    "reduction": {"reduction": "striding", "reduction_factor": 2, "reduction_position": 0},
    "local attention": {"self_attention_model": "rel_pos_local_attn", "att_context_size": [8, 8]},
    "stacking": {"subsampling": "stacking", "subsampling_factor": 4},
}


def make_encoder(**form) -> ConformerEncoder:
    """A small encoder in which no parameter and no running statistic is trivial."""
    torch.manual_seed(0)
    settings = {
        "feat_in": 16,
        "n_layers": 2,
        "d_model": 32,
        "n_heads": 4,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "conv_kernel_size": 9,
    }
    encoder = ConformerEncoder(**settings | form).eval()
    for name, parameter in encoder.named_parameters():
        if "pos_bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return encoder


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches so short that small inputs have several."""
    monkeypatch.setattr(lean_conformer, "CHUNK_FRAMES", 64)
    monkeypatch.setattr(lean_conformer, "SUBSAMPLING_FRAMES", 16)


def run(encoder, mel, lengths):
    """The encoder's output (batch, width, frames) and its lengths."""
    with torch.no_grad():
        return encoder(audio_signal=mel, length=torch.tensor(lengths))


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_nemos_padding_and_odd_lengths_included(short_stretches, form):
    theirs = make_encoder(**FORMS[form])
    ours = use_lean_inference(copy.deepcopy(theirs))
    for hops, lengths in [(1003, [1003, 517, 9]), (801, [801]), (7, [7]), (1, [1]), (2050, [2049, 2050])]:
        mel = torch.randn(len(lengths), 16, hops)
        (wanted, wanted_lengths), (found, found_lengths) = run(theirs, mel, lengths), run(ours, mel, lengths)
        assert found_lengths.tolist() == wanted_lengths.tolist()
        assert found_lengths.dtype == wanted_lengths.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk, subsampling", [(64, 16), (1000, 24), (100, 4096)])
def test_stretches_change_nothing(monkeypatch, chunk, subsampling):
    encoder = use_lean_inference(make_encoder())
    mel = torch.randn(1, 16, 3001)
    wanted, _ = run(encoder, mel, [3001])
    monkeypatch.setattr(lean_conformer, "CHUNK_FRAMES", chunk)
    monkeypatch.setattr(lean_conformer, "SUBSAMPLING_FRAMES", subsampling)
    torch.testing.assert_close(run(encoder, mel, [3001])[0], wanted, rtol=0, atol=1e-5)


def test_weights_keep_their_names_and_the_encoder_its_kind():
    theirs = make_encoder()
    ours = use_lean_inference(copy.deepcopy(theirs))
    assert isinstance(ours, ConformerEncoder)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    again = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    assert type(again) is LeanConformerEncoder
    mel = torch.randn(1, 16, 300)
    torch.testing.assert_close(run(again, mel, [300])[0], run(theirs, mel, [300])[0], rtol=0, atol=1e-5)
    assert use_lean_inference(ours) is ours, "twice is once"
    linear = torch.nn.Linear(2, 2)
    assert use_lean_inference(linear) is linear


def test_training_and_gradients_are_nemos():
    theirs = make_encoder(dropout=0.0, dropout_pre_encoder=0.0, dropout_emb=0.0)
    ours = use_lean_inference(copy.deepcopy(theirs))
    mel, lengths = torch.randn(2, 16, 400), torch.tensor([400, 250])
    for encoder in (theirs, ours):
        encoder.train()
        encoder(audio_signal=mel, length=lengths)[0].square().mean().backward()
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


def test_cached_streaming_is_nemos():
    theirs = make_encoder(
        att_context_style="chunked_limited", att_context_size=[16, 3], conv_context_size="causal",
        causal_downsampling=True,
    )  # fmt: skip
    ours = use_lean_inference(copy.deepcopy(theirs))
    mel, results = torch.randn(1, 16, 64), []
    for encoder in (theirs, ours):
        encoder.setup_streaming_params(chunk_size=4, shift_size=4, left_chunks=4)
        cache = encoder.get_initial_cache_state(batch_size=1)
        with torch.no_grad():
            results.append(encoder.cache_aware_stream_step(mel, torch.tensor([64]), *cache))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_part_with_hooks_is_called_as_a_module():
    encoder, calls = use_lean_inference(make_encoder()), []
    encoder.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    mel = torch.randn(2, 16, 400)
    found, lengths = run(encoder, mel, [400, 200])
    assert calls == [1]
    torch.testing.assert_close(found, run(make_encoder(), mel, [400, 200])[0], rtol=0, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor had which an operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, *(t.numel() for t in tree_iter(result) if isinstance(t, torch.Tensor)), 0)
        return result


@pytest.mark.parametrize("attention", ["rel_pos", "abs_pos"])
@pytest.mark.parametrize("lengths", [[24000], [24000, 16000]])
def test_no_tensor_grows_with_the_square_of_the_frames(attention, lengths):
    frames = max(lengths) // 8
    mel = torch.randn(len(lengths), 16, max(lengths))
    theirs = make_encoder(self_attention_model=attention, pos_emb_max_len=16)
    with LargestTensor() as seen:
        run(use_lean_inference(theirs), mel, lengths)
    assert seen.largest < frames * frames / 4, "not even one (frames, frames) mask"
    assert theirs.pos_enc.pe.shape[1] <= 2 * frames * (1 if attention == "rel_pos" else 8)
