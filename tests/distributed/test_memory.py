# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Formulas of memory against what torch keeps, and what is recommended of them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder
from torch import nn

from nemo_sortformer.config import ConfigError, ParallelConfig
from nemo_sortformer.distributed.activations import Activations, Cost, activations_of
from nemo_sortformer.distributed.memory import (
    Parameters,
    layouts,
    memory_of,
    optimizer_state,
    parameters_of,
    plan,
    recommend,
)
from nemo_sortformer.distributed.plan_inputs import find_config, read_plan_inputs
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder, SpeakerHead, TransformerStateEncoder

TOLERANCE = 0.02
CPU = Cost(element=4, drop=4, fused_attention=False)
spec = importlib.util.spec_from_file_location("saved_tensors", Path(__file__).with_name("saved_tensors.py"))
saved_tensors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saved_tensors)


def conformer(**changes):
    settings = {
        "feat_in": 80,
        "n_layers": 3,
        "d_model": 64,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 16,
        "n_heads": 4,
        "conv_kernel_size": 9,
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
        "use_pytorch_sdpa": True,
    }
    return ConformerEncoder(**settings | changes)


NO_DROPOUT = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}
ENCODERS = {
    "published": lambda: conformer(),
    "no dropout, layer norm": lambda: conformer(**NO_DROPOUT, conv_norm_type="layer_norm"),
    "attention by hand": lambda: conformer(use_pytorch_sdpa=False),
    "absolute positions": lambda: conformer(self_attention_model="abs_pos"),
    "striding": lambda: conformer(subsampling="striding", subsampling_factor=4),
    "stacking": lambda: conformer(subsampling="stacking_norm"),
    "few frames, wide": lambda: conformer(d_model=128, n_layers=1),
}
STATE_ENCODERS = {
    "transformer": lambda: TransformerStateEncoder(3, 48, 192, num_attention_heads=4),
    "transformer, published": lambda: TransformerStateEncoder(
        3, 48, 192, num_attention_heads=4, attn_score_dropout=0.5, attn_layer_dropout=0.5, ffn_dropout=0.5
    ),
    "transformer, pre-norm, gelu": lambda: TransformerStateEncoder(
        2, 48, 96, num_attention_heads=4, pre_ln=True, hidden_act="gelu"
    ),
    "sortformer": lambda: SortformerEncoder(3, 48, 192, num_attention_heads=4),
    "sortformer, plain": lambda: SortformerEncoder(
        2, 48, 96, num_attention_heads=4, conv_kernel=0, positions="none", feedback=False, dropout=0.0
    ),
    "sortformer, dropped scores": lambda: SortformerEncoder(2, 48, 96, num_attention_heads=4, attn_score_dropout=0.1),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("frames", [25, 80])
def test_a_conformer_keeps_what_the_formula_says(name, frames):
    encoder = ENCODERS[name]().train()
    lengths = torch.tensor([frames, frames - 5]) * encoder.subsampling_factor
    mel = torch.randn(2, 80, frames * encoder.subsampling_factor)
    kept = saved_tensors.saved_bytes(lambda: encoder(audio_signal=mel, length=lengths)[0], encoder)
    assert 2 * activations_of(encoder, frames, CPU).kept == pytest.approx(kept, rel=TOLERANCE)


@pytest.mark.parametrize("name", STATE_ENCODERS)
@pytest.mark.parametrize("frames", [25, 80])
def test_a_state_encoder_keeps_what_the_formula_says(name, frames):
    encoder = STATE_ENCODERS[name]().train()
    states = torch.randn(2, frames, 48, requires_grad=True)
    mask = lengths_to_mask(torch.tensor([frames, frames - 5]), frames)
    kept = saved_tensors.saved_bytes(lambda: encoder.forward_with_labels(states, mask), encoder)
    assert 2 * activations_of(encoder, frames, CPU).kept == pytest.approx(kept, rel=TOLERANCE)


def test_the_speaker_head_keeps_what_the_formula_says():
    head = SpeakerHead(64, 48, 4).train()
    states = torch.randn(2, 30, 64, requires_grad=True)
    kept = saved_tensors.saved_bytes(lambda: head(states=head.project(states)), head)
    assert 2 * activations_of(head, 30, CPU).kept == pytest.approx(kept, rel=TOLERANCE)


def test_layers_that_are_computed_again_keep_their_inputs():
    encoder = STATE_ENCODERS["sortformer"]().train()
    for layer in encoder.layers:
        forward = layer.forward
        layer.forward = lambda *args, forward=forward, **kwargs: torch.utils.checkpoint.checkpoint(
            forward, *args, use_reentrant=False, **kwargs
        )
    states = torch.randn(2, 80, 48, requires_grad=True)
    mask = lengths_to_mask(torch.tensor([80, 75]), 80)
    kept = saved_tensors.saved_bytes(lambda: encoder.forward_with_labels(states, mask), encoder)
    found = activations_of(encoder, 80, CPU)
    assert 2 * (found.inputs + found.outside) == pytest.approx(kept, rel=0.1)  # label estimates leave the layers too
    assert found.peak(checkpointing=True) == found.inputs + found.outside + found.largest_layer + found.passing


@pytest.fixture(scope="module")
def published():
    return read_plan_inputs("diarizer_published")


def test_the_published_model_is_planned_without_memory_for_its_numbers(published):
    assert sum(parameter.numel() for parameter in published.model.parameters()) == pytest.approx(123.2e6, rel=1e-3)
    assert all(parameter.is_meta for parameter in published.model.parameters())
    assert (published.num_frames, published.seconds, published.batch_size) == (1125, 90.0, 4)


@pytest.mark.slow
def test_the_published_model_keeps_what_the_formula_says(published):
    model = published.model.train()
    mel = torch.empty(1, 80, 9000, device="meta")
    lengths = torch.full((1,), 9000, device="meta")
    kept = saved_tensors.saved_bytes(lambda: model.forward_features(mel, lengths).logits, model)
    assert activations_of(model, 1125, CPU).kept == pytest.approx(kept, rel=TOLERANCE)


def test_bytes_per_parameter_are_those_of_the_rule():
    parameters = Parameters(trained=1000, frozen=0, largest_unit=0)

    def per_parameter(stage, world, **settings):
        config = ParallelConfig(dtype="bf16", zero_stage=stage, **settings)
        return memory_of(parameters, Activations(), config, world).peak(0) / 1000

    assert per_parameter(0, 8) == 16
    assert per_parameter(2, 1) == 16
    assert per_parameter(1, 8) == 12 / 8 + 4
    assert per_parameter(2, 8) == 12 / 8 + 2  # at the start of the backward pass: gathered, no gradient yet
    assert per_parameter(3, 8) == 16 / 8
    assert per_parameter(3, 64, replicate_size=8) == 16 / 8
    memory = memory_of(parameters, Activations(kept=50), ParallelConfig(dtype="bf16", zero_stage=2), 8)
    assert memory.peak(2) - memory.peak(1) == 50
    assert memory.peak(1, accumulate=True) - memory.peak(1) == pytest.approx(4000 / 8)


def test_frozen_parameters_have_neither_gradient_nor_state():
    config = ParallelConfig(dtype="fp32", zero_stage=2)
    memory = memory_of(Parameters(trained=0, frozen=1000, largest_unit=0), Activations(), config, 1)
    assert (memory.gradients, memory.optimizer, memory.parameters) == (0, 0, 4000)


@pytest.mark.parametrize(
    "settings, size", [({"name": "adamw"}, 8), (None, 8), ({"name": "sgd"}, 0), ({"name": "sgd", "momentum": 0.9}, 4)]
)
def test_the_state_of_an_optimizer(settings, size):
    assert optimizer_state(settings) == size


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match="`optim.name` 'novograd' is not known"):
        optimizer_state({"name": "novograd"})


def test_memory_falls_with_the_processes_that_share_layers(published):
    rows = plan(published.model, num_frames=1125, gpus=8, gpu_memory=80, batch_size=4)
    chosen = [row for row in rows if row.config.zero_stage == 3 and not row.config.activation_checkpointing]
    sizes = [row.config.tensor_parallel_size for row in chosen]
    assert sizes == [1, 2, 4]
    needed = [row.memory.recording for row in chosen]
    assert needed == sorted(needed, reverse=True)
    for row, size in zip(chosen, sizes):
        rest = row.parameters.total / row.whole_parameters
        assert 1 / size <= rest < 1 / size + 0.04


def test_what_fits_is_recommended_in_the_order_of_its_cost(published):
    def best(gpu_memory, **changes):
        settings = {"num_frames": 1125, "gpus": 8, "batch_size": 4} | changes
        return recommend(plan(published.model, gpu_memory=gpu_memory, **settings))

    plenty = best(80).config
    assert (plenty.zero_stage, plenty.tensor_parallel_size, plenty.activation_checkpointing) == (2, 1, False)
    assert best(5.5).config.activation_checkpointing
    shared = best(24, num_frames=12500, batch_size=2).config  # 1000 seconds: attention alone is past one GPU
    assert shared.tensor_parallel_size > 1
    assert shared.sequence_parallel
    assert best(2.0) is None
    nodes = best(80, gpus=64).config
    assert nodes.replicate_size == 8


def test_the_largest_batch_fits_and_one_more_does_not(published):
    for row in plan(published.model, num_frames=500, gpus=4, gpu_memory=24, batch_size=1):
        usable = 24e9 * 0.94 - 1e9
        assert row.memory.peak(row.largest_batch) <= usable
        assert row.memory.peak(row.largest_batch + 1) > usable


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gpus": 0}, "`gpus` must be at least 1, but is 0"),
        ({"gpus": 12}, "`gpus` must be a multiple of `gpus_per_node`, 8"),
        ({"gpu_memory": 0.5}, "`gpu_memory` must be above 1.06 GB"),
        ({"batch_size": -1}, "`batch_size` must be at least 1"),
        ({"dtype": "int8"}, "`dtype` must be one of fp32, bf16, fp16"),
    ],
)
def test_impossible_numbers_are_refused(change, message, published):
    settings = {"num_frames": 10, "gpus": 1, "gpu_memory": 80} | change
    with pytest.raises(ConfigError, match=message):
        plan(published.model, **settings)


def test_a_model_of_which_nothing_is_known_is_refused():
    with pytest.raises(ConfigError, match="Activations are known of `ConformerEncoder`"):
        plan(nn.Linear(2, 2), num_frames=10, gpus=1, gpu_memory=80)


def test_layouts_do_not_share_layers_where_heads_do_not_divide():
    encoder = TransformerStateEncoder(1, 48, 96, num_attention_heads=3)
    found = list(layouts(nn.ModuleDict({"encoder": encoder}), 8, gpus_per_node=8, dtype="bf16"))
    assert {config.tensor_parallel_size for config in found} == {1}
    assert len({repr(config) for config in found}) == len(found)


def test_configurations_are_found_by_name_and_path(tmp_path):
    assert find_config("diarizer_tiny").name == "diarizer_tiny.yaml"
    assert find_config(str(find_config("diarizer_tiny"))).is_file()
    with pytest.raises(ConfigError, match="must be a YAML file or one of .*diarizer_published.* but is 'nothing'"):
        find_config("nothing")
    empty = tmp_path / "empty.yaml"
    empty.write_text("trainer: {}\n")
    with pytest.raises(ConfigError, match="must have the group `model`"):
        read_plan_inputs(str(empty))
    empty.write_text("model: {nothing: 1}\n")
    with pytest.raises(ConfigError, match="must be that of a diarizer"):
        read_plan_inputs(str(empty))


def test_the_length_of_a_recording_must_be_said():
    with pytest.raises(ConfigError, match="`--seconds` must say how long"):
        read_plan_inputs("diarizer_tiny", seconds=-1.0)
    assert read_plan_inputs("diarizer_tiny", seconds=8.0).num_frames == 100


def test_the_parameters_of_a_process_add_up(published):
    whole = parameters_of(published.model)
    assert whole.total == sum(parameter.numel() for parameter in published.model.parameters())
    assert whole.frozen == sum(p.numel() for p in published.model.parameters() if not p.requires_grad)
    halves = parameters_of(published.model, tensor_size=2, sequence_parallel=True)
    assert whole.total / 2 < halves.total < whole.total / 2 + 0.02 * whole.total
