# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's private parts are still as we use them, and weights of other models land where they should."""

import pytest
import torch
from nemo.collections.asr.models import EncDecCTCModel
from nemo.core.classes import common
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.nemo_bridge import NemoFileError


def test_nemo_still_has_the_allow_list_that_we_extend():
    # Where this fails, NeMo has changed how it allows classes: look at nemo_bridge.register() again.
    assert isinstance(common.ALLOWED_TARGET_PREFIXES, list)
    assert nemo_bridge.register()
    assert nemo_bridge.register()
    assert common.ALLOWED_TARGET_PREFIXES.count("nemo_sortformer.") == 1
    assert common._is_target_allowed("nemo_sortformer.modules.SpeakerHead")
    assert not common._is_target_allowed("nemo_sortformer_of_another.modules.SpeakerHead")
    assert not common._is_target_allowed("nemo_sortformer.config.merge.from_cfg")


def test_a_nemo_without_the_list_needs_no_entry(monkeypatch):
    monkeypatch.delattr(common, "ALLOWED_TARGET_PREFIXES")
    assert not nemo_bridge.register()


@pytest.fixture
def asr_file(our_cfg, tmp_path):
    """Make a CTC model with an encoder like ours, and its .nemo file."""

    def make(**encoder):
        parts = our_cfg()
        parts.encoder.update(encoder)
        cfg = {
            "sample_rate": 16000,
            "preprocessor": parts.preprocessor,
            "encoder": parts.encoder,
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": parts.encoder.d_model,
                "num_classes": 2,
                "vocabulary": ["a", "b"],
            },
        }
        model = EncDecCTCModel(cfg=OmegaConf.create(cfg))
        path = str(tmp_path / "asr.nemo")
        model.save_to(path)
        return model, path

    return make


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("way", ["init_encoder_from", "init_from_nemo_model", "include"])
def test_the_encoder_of_an_asr_model_is_taken_over_and_nothing_else(our_cfg, asr_file, way):
    asr, path = asr_file()
    model = SortformerDiarizer(cfg=our_cfg())
    before = snapshot(model)
    if way == "init_encoder_from":
        report = model.maybe_init_from_nemo_encoder(path)
        assert len(report.loaded) == len(asr.encoder.state_dict())
        assert not report.missing
        assert "tensors loaded from" in str(report)
    else:
        source = path if way == "init_from_nemo_model" else {"m": {"path": path, "include": ["encoder"]}}
        model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": source}))
    for name, tensor in model.state_dict().items():
        expected = asr.state_dict()[name] if name.startswith("encoder.") else before[name]
        assert_close(tensor, expected, rtol=0, atol=0)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_whole_diarizer_or_its_checkpoint_can_be_the_start(our_cfg, tmp_path):
    source, path = SortformerDiarizer(cfg=our_cfg()), str(tmp_path / "own.nemo")
    source.save_to(path)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "own.ckpt")
    starts = ({"init_from_nemo_model": path}, {"init_from_ptl_ckpt": str(tmp_path / "own.ckpt")})
    for start in starts:
        model = SortformerDiarizer(cfg=our_cfg())
        model.maybe_init_from_pretrained_checkpoint(OmegaConf.create(start | {"init_from_pretrained_model": None}))
        for name, tensor in source.state_dict().items():
            assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_prefixes_are_whole_names(our_cfg, tmp_path):
    source, path = SortformerDiarizer(cfg=our_cfg()), str(tmp_path / "own.nemo")
    source.save_to(path)
    model = SortformerDiarizer(cfg=our_cfg())
    before = snapshot(model)
    start = {"m": {"path": path, "include": ["encoder"], "exclude": ["encoder.pre_encode"]}}
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": start}))
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.layers.") for name in changed)


def test_nothing_given_does_nothing(our_cfg):
    model = SortformerDiarizer(cfg=our_cfg())
    before = snapshot(model)
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": None}))
    assert model.maybe_init_from_nemo_encoder(None) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_two_starts_are_one_too_many(our_cfg):
    model = SortformerDiarizer(cfg=our_cfg())
    with pytest.raises(ConfigError, match="Only one of"):
        model.maybe_init_from_pretrained_checkpoint(
            OmegaConf.create({"init_from_nemo_model": "a", "init_from_ptl_ckpt": "b"})
        )


def test_an_encoder_of_other_mels_or_sizes_is_refused(our_cfg, asr_file):
    _, path = asr_file(d_model=16)
    with pytest.raises(NemoFileError, match="`encoder.d_model` is 16 there and 32 here"):
        SortformerDiarizer(cfg=our_cfg()).maybe_init_from_nemo_encoder(path)
    _, path = asr_file()
    cfg = our_cfg()
    cfg.preprocessor.normalize = "NA"
    with pytest.raises(NemoFileError, match="`preprocessor.normalize` is 'per_feature' there and 'NA' here"):
        SortformerDiarizer(cfg=cfg).maybe_init_from_nemo_encoder(path)


def test_tensors_of_another_shape_or_name_are_refused(our_cfg):
    model = SortformerDiarizer(cfg=our_cfg())
    with pytest.raises(
        NemoFileError, match=r"`encoder.pre_encode.out.bias`: \(3,\) in the file, \(32,\) in the model"
    ):
        nemo_bridge.load_weights(model, {"encoder.pre_encode.out.bias": torch.zeros(3)}, path="x.nemo")
    with pytest.raises(NemoFileError, match=r"has no weights named `encoder`.*it has `decoder`"):
        nemo_bridge.load_weights(model, {"decoder.x": torch.zeros(3)}, path="x.nemo", include=["encoder"])
