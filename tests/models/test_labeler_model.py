# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labeler as a network: shapes, padding, kinds of labels, any encoder and head, files."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.labeler import SortformerLabeler
from nemo_sortformer.modules import LabelHead, SortformerEncoder

KINDS = {"speaker": {"num_classes": 3}, "language": {"num_classes": 2, "weight": 0.5}}
TRANSFORMER = {
    "_target_": "nemo_sortformer.modules.TransformerStateEncoder",
    "num_layers": 1,
    "hidden_size": 8,
    "inner_size": 16,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("changes", [{}, {"heads": KINDS}, {"encoder": TRANSFORMER}, {"affinity": {"dim": 4}}])
def test_a_sequence_is_labelled_alike_alone_and_in_a_batch_whatever_the_padding_holds(labeler_cfg, changes):
    torch.manual_seed(0)
    model = SortformerLabeler(cfg=labeler_cfg(**changes)).eval()
    short, long = torch.randn(1, 5, 6), torch.randn(1, 9, 6)
    batch = torch.full((2, 9, 6), torch.nan)
    batch[0, :5], batch[1] = short[0], long[0]
    with torch.no_grad():
        together = model(embeddings=batch, lengths=torch.tensor([5, 9]))
        alone = model(embeddings=short, lengths=torch.tensor([5]))
    assert_close(together.logits[:1, :5], alone.logits, atol=1e-5, rtol=1e-4)
    assert not together.probs[0, 5:].any()
    if alone.embeddings is not None:
        assert_close(together.embeddings[:1, :5], alone.embeddings, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 2, 33])
def test_the_output_has_the_shapes_it_promises(labeler_cfg, num_frames):
    model = SortformerLabeler(cfg=labeler_cfg(heads=KINDS, affinity={"dim": 4}))
    output = model(embeddings=torch.randn(2, num_frames, 6), lengths=torch.tensor([num_frames, 1]))
    assert output.logits.shape == (2, num_frames, 5)
    assert output.embeddings.shape == (2, num_frames, 4)
    assert [logits.shape for logits in output.layer_logits] == [(2, num_frames, 3)]  # of the main kind
    assert [kind.columns for kind in model.label_columns()] == [slice(0, 3), slice(3, 5)]
    assert (model.num_slots, model.num_classes) == (5, {"speaker": 3, "language": 2})


def test_a_sequence_without_frames_beside_others_disturbs_none(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg()).eval()
    batch = torch.randn(2, 7, 6)
    with torch.no_grad():
        output = model(embeddings=batch, lengths=torch.tensor([0, 7]))
        alone = model(embeddings=batch[1:], lengths=torch.tensor([7]))
    assert torch.isfinite(output.logits).all()
    assert not output.probs[0].any()
    assert_close(output.logits[1:], alone.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 7), (5, 6), (2, 0, 6)])
def test_embeddings_of_another_shape_are_refused(labeler_cfg, shape):
    model = SortformerLabeler(cfg=labeler_cfg())
    with pytest.raises((ValueError, TypeError), match=r"`embeddings` must be \(batch, frames, 6\)|shape mismatch"):
        model(embeddings=torch.zeros(shape), lengths=torch.ones(shape[0], dtype=torch.long))


def test_widths_and_slots_follow_from_the_other_parts(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg(max_num_of_classes=5))
    assert isinstance(model.state_encoder, SortformerEncoder)
    assert isinstance(model.label_head, LabelHead)
    assert model.state_encoder.num_labels == model.label_head.num_classes == 5
    assert model.input_projection.weight.shape == (8, 6)
    same = SortformerLabeler(cfg=labeler_cfg(input_dim=8))
    assert isinstance(same.input_projection, torch.nn.Identity)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"head": {"num_classes": 7}}, "`model.head.num_classes` must be 3"),
        (
            {"heads": {"a": {"num_classes": 2, "head": {"hidden_size": 9}}}},
            "`model.heads.a.head.hidden_size` must be 8",
        ),
        ({"encoder": {"_target_": "nemo_sortformer.modules.NoEncoder"}}, "`model.encoder._target_` must be a class"),
        ({"max_num_of_clases": 3}, "Did you mean `max_num_of_classes`"),
    ],
)
def test_parts_that_cannot_be_are_refused(labeler_cfg, changes, match):
    cfg = labeler_cfg(**changes)
    if "heads" in changes:
        cfg.max_num_of_classes = None
    with pytest.raises(ConfigError, match=match):
        SortformerLabeler(cfg=cfg)


@pytest.mark.parametrize("changes", [{}, {"heads": KINDS}, {"encoder": TRANSFORMER, "affinity": {"dim": 4}}])
def test_saving_and_restoring_changes_nothing(labeler_cfg, tmp_path, changes):
    torch.manual_seed(1)
    model = SortformerLabeler(cfg=labeler_cfg(**changes)).eval()
    model.save_to(str(tmp_path / "model.nemo"))
    batch = {"embeddings": torch.randn(2, 9, 6), "lengths": torch.tensor([9, 4])}
    with torch.no_grad():
        expected = model(**batch).probs
        for restorer in (SortformerLabeler, SortformerDiarizer):  # a file knows its own class
            again = restorer.restore_from(str(tmp_path / "model.nemo"), map_location="cpu").eval()
            assert type(again) is SortformerLabeler
            assert torch.equal(again(**batch).probs, expected)
    assert again.cfg.target == "nemo_sortformer.models.labeler.model.SortformerLabeler"


def test_weights_of_another_labeler_start_one(labeler_cfg, tmp_path):
    first, second = (SortformerLabeler(cfg=labeler_cfg()) for _ in range(2))
    first.save_to(str(tmp_path / "first.nemo"))
    second.maybe_init_from_pretrained_checkpoint(
        OmegaConf.create({"init_from_nemo_model": str(tmp_path / "first.nemo")})
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_another_kind_of_model_is_refused(labeler_cfg):
    with pytest.raises(ConfigError, match="`some.other.Model`, which is no Sortformer labeler. Restore it with"):
        SortformerLabeler.from_config_dict(OmegaConf.create({"target": "some.other.Model"}))


def test_building_a_model_leaves_the_callers_settings_alone(labeler_cfg):
    cfg = labeler_cfg(heads=KINDS)
    before = OmegaConf.to_yaml(cfg)
    SortformerLabeler(cfg=cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_label_hands_over_to_inference(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg())
    (one,) = model.label(np.zeros((4, 6), dtype=np.float32))
    assert one.probs.shape == (4, 3)
    assert model.training  # as before
    assert SortformerLabeler.list_available_models() == []
