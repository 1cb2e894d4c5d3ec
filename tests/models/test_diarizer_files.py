# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Files: NVIDIA's restore as ours with the same numbers, ours restore from anywhere, others are refused clearly."""

import dataclasses
import tarfile

import pytest
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer, build
from nemo_sortformer.nemo_bridge import NemoFileError, read_nemo_config

OWN_NAME = "nemo_sortformer.models.diarizer.model.SortformerDiarizer"


def randomized(model):
    """Give the batch norms and biases values that a trained model could have, so that nothing hides behind zeros."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif "running_mean" in name or name.endswith("bias"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture
def nvidia_file(nemo_cfg, tmp_path):
    """Make a model of NVIDIA's class, and its .nemo file."""

    def make(**options):
        model = randomized(SortformerEncLabelModel(cfg=nemo_cfg(**options)))
        path = str(tmp_path / "nvidia.nemo")
        model.save_to(path)
        return model, path

    return make


@pytest.mark.parametrize("width, hidden", [(32, 16), (32, 32)], ids=["projected", "equal widths"])
def test_nvidias_file_restores_strictly_and_gives_the_same_probabilities(nvidia_file, noise_batch, width, hidden):
    theirs, path = nvidia_file(width=width, hidden=hidden)
    ours = SortformerDiarizer.restore_from(path, map_location="cpu", strict=True).eval()
    assert type(ours) is SortformerDiarizer
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for audio, length in zip(*noise_batch):
        audio, lengths = audio[None, :length], length[None]
        with torch.no_grad():
            expected, got = theirs(audio_signal=audio, audio_signal_length=lengths), ours(audio, lengths)
        assert int(got.lengths[0]) == expected.shape[1]
        assert expected.std() > 0.01  # or the comparison would say nothing
        assert_close(got.probs, expected, rtol=0, atol=1e-5)


def test_nvidias_batch_is_equal_on_valid_frames_where_one_recording_has_the_peak_of_the_batch(
    nvidia_file, noise_batch
):
    theirs, path = nvidia_file()
    ours = SortformerDiarizer.restore_from(path, map_location="cpu").eval()
    audio, lengths = noise_batch
    audio = audio / audio.amax(dim=1, keepdim=True)  # NeMo's gain is the batch's, ours the recording's
    with torch.no_grad():
        expected, got = theirs(audio_signal=audio, audio_signal_length=lengths), ours(audio, lengths)
    frames = torch.arange(got.logits.shape[1]) < got.lengths[:, None]
    assert_close(got.probs[frames], expected[frames], rtol=0, atol=1e-5)


def test_nvidias_settings_become_ours(nvidia_file, tmp_path):
    _, path = nvidia_file()
    ours = SortformerDiarizer.restore_from(path, map_location="cpu")
    assert (ours.config.loss.sort_weight, ours.config.loss.pil_weight) == (0.5, 0.5)  # 0.25 each, divided by the sum
    assert ours.config.train_ds.session_len_sec is None
    assert ours.config.train_ds.batch_size == 4
    assert ours.cfg.transformer_encoder["_target_"] == "nemo_sortformer.modules.TransformerStateEncoder"
    saved = str(tmp_path / "again.nemo")
    ours.save_to(saved)
    assert read_nemo_config(saved).target == OWN_NAME
    for restorer in (ModelPT, SortformerDiarizer):
        assert type(restorer.restore_from(saved, map_location="cpu")) is SortformerDiarizer


def test_nvidias_streaming_file_restores_without_a_gain(nvidia_file, capsys):
    _, path = nvidia_file(streaming_mode=True, async_streaming=False)
    ours = SortformerDiarizer.restore_from(path, map_location="cpu", strict=True)
    assert ours.config.level == "none"


@pytest.mark.parametrize("restorer", [SortformerDiarizer, ModelPT])
def test_saving_and_restoring_changes_nothing(our_cfg, tmp_path, noise_batch, restorer):
    model = randomized(SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8}, inference={"onset": 0.6})))
    path = str(tmp_path / "own.nemo")
    model.save_to(path)
    again = restorer.restore_from(path, map_location="cpu").eval()
    assert type(again) is SortformerDiarizer
    assert dataclasses.replace(again.config, nemo_version=None) == model.config  # a file says who wrote it
    with torch.no_grad():
        assert_close(again(*noise_batch).probs, model(*noise_batch).probs, rtol=0, atol=0)


def test_settings_of_the_data_survive_a_restore(our_cfg, tmp_path):
    model = SortformerDiarizer(cfg=our_cfg(train_ds={"manifest_filepath": None, "batch_size": 5}))
    model.save_to(str(tmp_path / "own.nemo"))
    again = SortformerDiarizer.restore_from(str(tmp_path / "own.nemo"), map_location="cpu")
    assert again.cfg.train_ds.batch_size == 5
    assert again.hparams.cfg.train_ds.batch_size == 5


def test_settings_can_be_overridden_while_restoring(our_cfg, tmp_path):
    SortformerDiarizer(cfg=our_cfg()).save_to(str(tmp_path / "own.nemo"))
    override = OmegaConf.merge(read_nemo_config(tmp_path / "own.nemo"), {"level": "rms"})
    again = SortformerDiarizer.restore_from(str(tmp_path / "own.nemo"), override_config_path=override)
    assert again.config.level == "rms"


def test_weights_that_do_not_fit_are_refused(our_cfg, tmp_path):
    SortformerDiarizer(cfg=our_cfg()).save_to(str(tmp_path / "own.nemo"))
    override = OmegaConf.merge(read_nemo_config(tmp_path / "own.nemo"), {"affinity": {"dim": 8}})
    with pytest.raises(RuntimeError, match="affinity_head"):
        SortformerDiarizer.restore_from(str(tmp_path / "own.nemo"), override_config_path=override)


def write_nemo(path, text):
    config = path.parent / "model_config.yaml"
    config.write_text(text)
    with tarfile.open(path, "w") as archive:
        archive.add(config, "./model_config.yaml")


def test_another_kind_of_model_is_refused_and_nemo_stays_usable(our_cfg, tmp_path):
    path = tmp_path / "asr.nemo"
    write_nemo(path, "target: nemo.collections.asr.models.ctc_models.EncDecCTCModel\nencoder: {}\n")
    with pytest.raises(ConfigError, match=r"EncDecCTCModel.*no Sortformer diarizer.*init_encoder_from"):
        SortformerDiarizer.restore_from(str(path))
    assert not ModelPT._is_model_being_restored()


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist"),
        (b"RIFF....WAVE", "is no .nemo file"),
        (b"", "is no .nemo file"),
    ],
)
def test_what_is_no_nemo_file_is_refused(tmp_path, content, message):
    path = tmp_path / "x.nemo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NemoFileError, match=message) as caught:
        SortformerDiarizer.restore_from(str(path))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(our_cfg, tmp_path):
    path = tmp_path / "own.nemo"
    SortformerDiarizer(cfg=our_cfg()).save_to(str(path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(NemoFileError, match="own.nemo"):
        SortformerDiarizer.restore_from(str(path))


def test_published_names_go_to_the_hub_under_nvidia(our_cfg, tmp_path, monkeypatch):
    path = str(tmp_path / "own.nemo")
    SortformerDiarizer(cfg=our_cfg()).save_to(path)
    asked = []

    def hub(cls, model_name, refresh_cache=False):
        asked.append(model_name)
        return cls, path

    monkeypatch.setattr(SortformerDiarizer, "_get_hf_hub_pretrained_model_info", classmethod(hub))
    for name in ("diar_sortformer_4spk-v1", "nvidia/diar_sortformer_4spk-v1"):
        assert type(SortformerDiarizer.from_pretrained(name)) is SortformerDiarizer
    assert asked == ["nvidia/diar_sortformer_4spk-v1"] * 2
    assert "nvidia/diar_sortformer_4spk-v1" in [
        m.pretrained_model_name for m in SortformerDiarizer.list_available_models()
    ]


def test_translating_does_not_change_its_argument(nemo_cfg):
    cfg = nemo_cfg()
    before = OmegaConf.to_yaml(cfg)
    build.translate(cfg, target=OWN_NAME)
    assert OmegaConf.to_yaml(cfg) == before


def test_loss_weights_that_add_up_to_nothing_are_refused(nemo_cfg):
    with pytest.raises(ConfigError, match="`ats_weight` and `pil_weight`"):
        build.translate(nemo_cfg(ats_weight=0.0, pil_weight=0.0), target=OWN_NAME)
