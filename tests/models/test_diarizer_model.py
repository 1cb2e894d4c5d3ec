# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The model by itself: a batch equals its items, the level is a recording's own, parts that disagree are refused."""

import sys
import types

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.diarizer.level import set_level
from tests.models.conftest import conformer


@pytest.fixture(params=["peak", "rms", "none"])
def level(request):
    return request.param


def test_a_batch_equals_its_items_and_padding_is_never_read(our_cfg, noise_batch, level):
    model = SortformerDiarizer(cfg=our_cfg(level=level, affinity={"dim": 8})).eval()
    audio, lengths = noise_batch
    junk = audio.masked_fill(torch.arange(audio.shape[1]) >= lengths[:, None], 9.0)
    with torch.no_grad():
        batch, dirty = model(audio, lengths), model(junk, lengths)
        assert_close(batch.probs, dirty.probs, rtol=0, atol=0)
        for row, length in enumerate(lengths.tolist()):
            alone = model(audio[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths[0])
            assert int(batch.lengths[row]) == frames
            assert_close(batch.probs[row, :frames], alone.probs[0], rtol=0, atol=1e-5)
            assert_close(batch.embeddings[row, :frames], alone.embeddings[0, :frames], rtol=0, atol=1e-4)
            assert not batch.probs[row, frames:].any()


@pytest.mark.parametrize("subsampling", ["stacking", "stacking_norm", "dw_striding"])
def test_half_a_frame_at_the_end_counts_beside_a_longer_recording_as_it_does_alone(our_cfg, subsampling):
    model = SortformerDiarizer(cfg=our_cfg(encoder=conformer(subsampling=subsampling))).eval()
    frame = model.hop_samples * model.subsampling
    audio = torch.randn(2, 20 * frame)
    length = 11 * frame + frame // 2
    batch = torch.tensor([20 * frame, length])
    with torch.no_grad():
        alone = model(audio[1:, :length], batch[1:])
        beside = model(audio.masked_fill(torch.arange(20 * frame) >= batch[:, None], 0.0), batch)
    assert int(alone.lengths[0]) == int(beside.lengths[1]) == 12
    assert_close(beside.probs[1, :12], alone.probs[0], rtol=0, atol=1e-5)


def test_the_output_has_the_shapes_it_promises(our_cfg, noise_batch):
    model = SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8})).eval()
    output = model(*noise_batch)
    frames = -(-46400 // 160 // 8)
    assert output.logits.shape == output.probs.shape == (3, frames, 3)
    assert output.lengths.tolist() == [-(-n // 160 // 8) for n in (46400, 20801, 30000)]
    assert [logits.shape for logits in output.layer_logits] == [(3, frames, 3)]  # every layer but the last
    assert output.embeddings.shape == (3, frames, 8)
    assert_close(output.embeddings.norm(dim=-1), torch.ones(3, frames))
    assert (model.num_slots, model.frame_seconds) == (3, 0.08)


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_a_recording_gives_the_same_at_any_level(our_cfg, noise_batch, factor):
    model = SortformerDiarizer(cfg=our_cfg(level="peak")).eval()
    audio, lengths = noise_batch[0][:1], noise_batch[1][:1]
    with torch.no_grad():
        # The 1e-3 beside the maximum makes the gain not quite a gain, so only near.
        assert_close(model(audio, lengths).probs, model(audio * factor, lengths).probs, rtol=0, atol=0.02)


def test_levels_by_hand():
    audio = torch.tensor([[0.5, -2.0, 0.0, 7.0], [-1.0, -3.0, -1.0, -1.0]])
    lengths = torch.tensor([3, 4])
    peak, rms = set_level(audio, lengths, "peak"), set_level(audio, lengths, "rms")
    assert_close(peak[0], torch.tensor([0.5, -2.0, 0.0, 0.0]) / 0.501)  # signed maximum, padding silenced
    assert_close(peak[1], audio[1] / 1e-3)  # never positive: a maximum of 0, and not turned over
    assert_close(rms[0], torch.tensor([0.5, -2.0, 0.0, 0.0]) / ((4.25 / 3) ** 0.5 + 1e-3))
    assert_close(rms[1], audio[1] / (3**0.5 + 1e-3))
    assert_close(set_level(audio, lengths, "none"), torch.tensor([[0.5, -2.0, 0.0, 0.0], [-1.0, -3.0, -1.0, -1.0]]))


@pytest.mark.parametrize("num_samples", [1, 159, 800])
def test_a_recording_of_next_to_nothing_is_one_frame(our_cfg, num_samples):
    model = SortformerDiarizer(cfg=our_cfg()).eval()
    output = model(torch.full((1, num_samples), 0.1), torch.tensor([num_samples]))
    assert output.probs.shape == (1, 1, 3)
    assert output.probs.isfinite().all()


def test_the_frame_rate_is_the_encoders(our_cfg, noise_batch):
    cfg = our_cfg()
    cfg.encoder.subsampling_factor = 4
    model = SortformerDiarizer(cfg=cfg).eval()
    assert (model.subsampling, model.frame_seconds) == (4, 0.04)
    assert model(*noise_batch).logits.shape[1] == -(-46400 // 160 // 4)


def test_widths_and_slots_follow_from_the_other_parts(our_cfg):
    model = SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8}))
    assert model.sortformer_modules.encoder_proj.weight.shape == (16, 32)
    assert model.sortformer_modules.single_hidden_to_spks.weight.shape == (3, 16)
    assert model.affinity_head.projection.weight.shape == (8, 32)


@pytest.mark.parametrize(
    "part, key, value", [("sortformer_modules", "num_spks", 5), ("transformer_encoder", "num_labels", 5)]
)
def test_parts_that_disagree_are_refused(our_cfg, part, key, value):
    cfg = our_cfg()
    cfg[part][key] = value
    with pytest.raises(ConfigError, match=f"`model.{part}.{key}` must be 3.*but is 5"):
        SortformerDiarizer(cfg=cfg)


def test_a_misspelt_key_is_refused_with_a_hint(our_cfg):
    cfg = our_cfg(loss={"sort_wieght": 1.0})
    with pytest.raises(ConfigError, match="`model.loss.sort_wieght`.*Did you mean `sort_weight`"):
        SortformerDiarizer(cfg=cfg)


def test_nothing_but_the_dead_layer_is_frozen_and_a_weightless_affinity_head_too(our_cfg):
    def frozen(**affinity):
        model = SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8, **affinity}))
        return {name.rpartition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}

    assert frozen(weight=0.5) == {"sortformer_modules.hidden_to_spks"}
    assert frozen(weight=0.0) == {"sortformer_modules.hidden_to_spks", "affinity_head.projection"}


def test_building_a_model_leaves_the_callers_settings_alone(our_cfg):
    cfg = our_cfg()
    before = OmegaConf.to_yaml(cfg)
    SortformerDiarizer(cfg=cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_diarize_hands_nemos_arguments_on(our_cfg, monkeypatch):
    seen = {}

    def stand_in(model, audio, **options):
        seen.update(options, audio=audio, model=model)
        return [["0.00 1.00 speaker_0"]]

    module = types.ModuleType("nemo_sortformer.inference.diarize")
    module.diarize_to_strings = stand_in
    monkeypatch.setitem(sys.modules, "nemo_sortformer.inference.diarize", module)
    model = SortformerDiarizer(cfg=our_cfg())
    assert model.diarize(["a.wav"], batch_size=3) == [["0.00 1.00 speaker_0"]]
    assert seen.pop("model") is model
    assert seen == {
        "audio": ["a.wav"],
        "sample_rate": None,
        "batch_size": 3,
        "include_tensor_outputs": False,
        "postprocessing_yaml": None,
        "num_workers": 0,
        "verbose": True,
        "override_config": None,
    }
