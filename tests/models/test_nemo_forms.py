# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Published forms of NeMo's diarizer restore with NeMo's numbers; what newer forms ask for is named or refused."""

import tarfile

import pytest
import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.utils import logging as nemo_logging
from omegaconf import OmegaConf, open_dict
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.nemo_bridge import WeightsError, describe, diarizer_findings, read_nemo_config

STREAMING = {
    "spkcache_len": 188,
    "fifo_len": 0,
    "chunk_len": 188,
    "spkcache_update_period": 188,
    "chunk_left_context": 1,
    "chunk_right_context": 1,
    "spkcache_sil_frames_per_spk": 3,
    "scores_add_rnd": 0,
    "pred_score_threshold": 0.25,
    "max_index": 99999,
    "scores_boost_latest": 0.05,
    "sil_threshold": 0.2,
    "strong_boost_rate": 0.75,
    "weak_boost_rate": 1.5,
    "min_pos_scores_rate": 0.5,
    "causal_attn_rate": 0.5,
    "causal_attn_rc": 7,
}


@pytest.fixture
def published(nemo_cfg):
    """Make the settings of a published form with its layers, mels and keys, but narrow."""

    def make(form, *, speakers=4, layers=None):
        cfg = nemo_cfg(width=16, hidden=8, max_num_of_spks=speakers)
        cfg.sortformer_modules.num_spks = cfg.train_ds.num_spks = speakers
        cfg.transformer_encoder.num_attention_heads = 2
        cfg.transformer_encoder.num_layers = layers or 18
        cfg.encoder.n_layers = layers or (18 if form == "v1" else 17)
        cfg.encoder.update(n_heads=2, conv_kernel_size=9, ff_expansion_factor=4, subsampling_conv_channels=4)
        mels = 80 if form == "v1" else 128
        cfg.preprocessor.features = cfg.encoder.feat_in = mels
        if form != "v1":
            cfg.preprocessor.normalize = "per_feature" if form == "v2 training settings" else "NA"
            cfg.merge_with({"streaming_mode": True, "async_streaming": form == "v2.1"})
            cfg.sortformer_modules.update(STREAMING)
            for name in ("fc_d_model", "tf_d_model", "session_len_sec", "num_workers"):
                cfg.pop(name)
        return cfg

    return make


def randomized(model):
    """Give the model weights under which its probabilities differ from frame to frame and from slot to slot."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif "running_mean" in name or name.endswith("bias"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif "hidden_to" in name or "encoder_proj" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        elif "out_projection" in name or "dense_out" in name:
            tensor.mul_(0.2)  # or 18 layers would make all frames alike
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    """Let NeMo build and save a model; give it and the file."""

    def make(cfg):
        torch.manual_seed(1)
        model = randomized(SortformerEncLabelModel(cfg=cfg))
        path = str(tmp_path / "nvidia.nemo")
        model.save_to(path)
        return model, path

    return make


@pytest.fixture
def speech(noise_batch):
    """Recordings whose signed peak is 0.999: NeMo's gain for them is 1, whether it sets one or not."""
    audio, lengths = noise_batch
    return audio * (0.999 / audio.amax(dim=1, keepdim=True)), lengths


@pytest.fixture
def said(monkeypatch):
    """The warnings, as a list."""
    texts = []
    monkeypatch.setattr(nemo_logging, "warning", lambda text, *args, **kwargs: texts.append(str(text)))
    return texts


FORMS = [("v1", 4), ("v2 training settings", 4), ("v2", 4), ("v2.1", 4), ("v1", 1), ("v2", 2), ("v1", 6), ("v2.1", 8)]


@pytest.mark.slow
@pytest.mark.parametrize("form, speakers", FORMS)
def test_each_published_form_restores_with_nemos_numbers(published, saved, speech, form, speakers):
    layers = None if speakers == 4 else 2
    theirs, path = saved(published(form, speakers=speakers, layers=layers))
    ours = SortformerDiarizer.restore_from(path, map_location="cpu", strict=True).eval()
    assert type(ours) is SortformerDiarizer
    assert ours.num_slots == speakers
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert len(ours.encoder.layers) == (layers or (18 if form == "v1" else 17))
    assert len(ours.transformer_encoder.layers) == (layers or 18)
    for audio, length in zip(*speech):
        audio, lengths = audio[None, :length], length[None]
        with torch.no_grad():
            theirs.streaming_mode = False
            offline, got = theirs(audio_signal=audio, audio_signal_length=lengths), ours(audio, lengths)
        assert offline.std(dim=1).max() > 1e-3  # from frame to frame; alike, they would say nothing
        assert_close(got.probs, offline, rtol=0, atol=1e-5)
        if form != "v1":
            theirs.streaming_mode, theirs.sortformer_modules.chunk_len = True, 1000  # the whole recording is one chunk
            with torch.no_grad():
                streamed = theirs(audio_signal=0.1 * audio, audio_signal_length=lengths)
                assert_close(ours(0.1 * audio, lengths).probs, streamed, rtol=0, atol=1e-5)
    found = describe(path)
    assert not found.problems
    assert found.abilities["diarize"].possible
    assert (found.slots, found.mel["features"], found.mel["normalize"]) == (
        speakers, 80 if form == "v1" else 128, "NA" if form in ("v2", "v2.1") else "per_feature",
    )  # fmt: skip
    assert found.total_parameters == sum(tensor.numel() for tensor in theirs.state_dict().values())
    assert (found.streaming is not None) == (form != "v1")


def test_keys_of_newer_training_are_named_and_change_nothing(published, saved, noise_batch, said):
    cfg = published("v2", layers=2)
    plain, path = saved(cfg)
    with open_dict(cfg):
        cfg.update(activity_weight=0.5, ats_tolerance=2, phantom_loss={"threshold": 0.25}, shade_of_blue="dark")
        cfg.encoder.colour = None
        cfg.sortformer_modules.async_desync_updates = True
    override = OmegaConf.merge(read_nemo_config(path), cfg)
    ours = SortformerDiarizer.restore_from(path, map_location="cpu", override_config_path=override).eval()
    named = ("activity_weight", "ats_tolerance", "phantom_loss", "shade_of_blue", "encoder.colour")
    for name in (*named, "sortformer_modules.async_desync_updates"):
        assert sum(f"`{name}`" in text for text in said) == 1, name
    reference = SortformerDiarizer.restore_from(path, map_location="cpu").eval()
    with torch.no_grad():
        assert_close(ours(*noise_batch).probs, reference(*noise_batch).probs, rtol=0, atol=0)
    assert "activity_weight" not in ours.cfg


def test_keys_of_newer_data_are_named_and_published_ones_pass_without_a_word(published, said):
    cfg = published("v2", layers=1)
    cfg.train_ds.update(is_tarred=False, seq_eval_mode=True, num_buckets=10, min_duration=10, drop_last=False)
    SortformerDiarizer(cfg=cfg)
    assert not [text for text in said if "ignored" in text]
    with open_dict(cfg):
        cfg.train_ds.update(subsegment_mode=True, subsegment_nspk_bias=1.5, validate_manifest_paths=False)
    SortformerDiarizer(cfg=cfg)
    named = "`train_ds`: not known here, and ignored: `subsegment_mode`, `subsegment_nspk_bias`."
    assert [text for text in said if "ignored" in text] == [named]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"high_resolution": True}, "`high_resolution`: it is True: frames of 10 ms"),
        ({"output_subsampling_factor": 1}, "`output_subsampling_factor`: it is 1"),
        ({"eps": 0.5}, "`eps`: it is 0.5"),
        ({"sortformer_modules": {"upsample_factor": 8}}, "`sortformer_modules.upsample_factor`: it is 8"),
        ({"sortformer_modules": {"use_learnable_sil_emb": True}}, "`sortformer_modules.use_learnable_sil_emb`"),
        (
            {"encoder": {"gating": "swish"}},
            "`encoder.gating`: `ConformerEncoder` of the installed version has no such",
        ),
        ({"preprocessor": {"pcen": True}}, "`preprocessor.pcen`: `AudioToMelSpectrogramPreprocessor` of"),
        ({"transformer_encoder": {"rotary": True}}, "`transformer_encoder.rotary`: `TransformerEncoder` of"),
        ({"encoder": {"_target_": "nemo.collections.asr.modules.NewEncoder"}}, "no installed package has a class"),
        ({"transformer_encoder": None}, "`transformer_encoder`: the diarizer has none"),
    ],
)
def test_keys_that_change_the_numbers_are_refused_by_name_with_a_way_out(published, changes, message):
    cfg = OmegaConf.merge(published("v2", layers=1), changes)
    cfg.target = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"
    with pytest.raises(ConfigError, match=message) as caught:
        SortformerDiarizer(cfg=cfg)
    assert "NeMo that wrote it" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "high_resolution": False,
            "output_subsampling_factor": 8,
            "eps": 1e-3,
            "phantom_weight": 0,
            "augmentor": None,
        },
        {"sortformer_modules": {"upsample_factor": 1, "use_learnable_sil_emb": False}},
    ],
)
def test_values_that_change_nothing_pass_without_a_word(published, changes):
    cfg = OmegaConf.merge(published("v2", layers=1), changes)
    findings = diarizer_findings(OmegaConf.to_container(cfg, resolve=True))
    assert not [one for one in findings if one.fatal]
    assert not [one for one in findings if not one.key.startswith("sortformer_modules")]


def rewrite(path, target, *, weights):
    """Copy a .nemo file with its weights changed."""
    with tarfile.open(path) as archive:
        archive.extractall(target.parent / "unpacked", filter="data")
    folder = target.parent / "unpacked"
    state = torch.load(folder / "model_weights.ckpt", weights_only=True)
    torch.save(weights(state), folder / "model_weights.ckpt")
    with tarfile.open(target, "w:") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"./{file.name}")
    return str(target)


@pytest.fixture
def changed(published, saved, tmp_path):
    """A small file of NeMo with weights added to and taken away from it."""

    def make(*, add=(), drop=()):
        _, path = saved(published("v1", layers=1))
        return rewrite(
            path,
            tmp_path / "changed.nemo",
            weights=lambda state: {k: v for k, v in state.items() if k not in drop} | {k: torch.ones(2) for k in add},
        )

    return make


def test_a_weight_without_a_place_is_refused(changed):
    path = changed(add=["sortformer_modules.subpixel_upsample.weight"])
    with pytest.raises(
        WeightsError, match="1 weights of the file have no place.*`sortformer_modules.subpixel_upsample"
    ):
        SortformerDiarizer.restore_from(path, map_location="cpu")
    assert [one.fatal for one in describe(path).problems] == [True]
    assert "subpixel_upsample" in str(describe(path).problems[0])
    assert type(SortformerDiarizer.restore_from(path, map_location="cpu", strict=False)) is SortformerDiarizer


def test_a_missing_weight_is_refused(changed):
    path = changed(drop=["sortformer_modules.single_hidden_to_spks.weight"])
    with pytest.raises(WeightsError, match="1 weights of the model are not in the file: `sortformer_modules.single"):
        SortformerDiarizer.restore_from(path, map_location="cpu")


def test_a_weight_that_only_trains_is_named_and_left_out(changed, said):
    path = changed(add=["sortformer_modules.activity_head.weight"])
    assert type(SortformerDiarizer.restore_from(path, map_location="cpu")) is SortformerDiarizer
    assert any("`sortformer_modules.activity_head.weight`" in text and "training only" in text for text in said)
    found = describe(path)
    assert not found.problems
    assert "activity_head" in str(found.notes[0])


def test_settings_that_do_not_fit_the_weights_are_found_without_a_model(published, saved, tmp_path):
    _, path = saved(published("v1", layers=2))
    (tmp_path / "folder").mkdir()
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "folder", filter="data")
    file = tmp_path / "folder" / "model_config.yaml"
    cfg = OmegaConf.load(file)
    cfg.encoder.n_layers, cfg.max_num_of_spks, cfg.preprocessor.features = 3, 5, 128
    OmegaConf.save(cfg, file)
    keys = [one.key for one in describe(tmp_path / "folder").problems]
    assert {"encoder.n_layers", "max_num_of_spks", "preprocessor.features"} <= set(keys)


def test_the_newest_form_is_refused_by_all_that_it_has_and_we_lack(published):
    cfg = published("v2.1", speakers=8, layers=1)
    cfg.encoder = {
        "_target_": "nemo.collections.asr.modules.TransformerEncoder", "feat_in": 128, "d_model": 16, "n_heads": 2,
        "n_layers": 1, "subsampling": "feature_stacking", "subsampling_factor": 8, "self_attention_model": "rope",
    }  # fmt: skip
    cfg.merge_with({"high_resolution": True, "output_subsampling_factor": 1, "transformer_encoder": None})
    cfg.sortformer_modules.use_learnable_sil_emb = True
    cfg.target = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"
    with pytest.raises(ConfigError) as caught:
        SortformerDiarizer(cfg=cfg)
    for name in (
        "high_resolution",
        "output_subsampling_factor",
        "transformer_encoder",
        "encoder.self_attention_model",
    ):
        assert f"- `{name}`: " in str(caught.value)
