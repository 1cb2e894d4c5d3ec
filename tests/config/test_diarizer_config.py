# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The settings of the model and its data: what contradicts itself is refused, and the shipped YAMLs are in order."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError, DatasetConfig, DiarizerConfig, InferenceConfig, from_cfg

PARTS = {"encoder": {"_target_": "x.Encoder"}, "transformer_encoder": {"_target_": "x.States"}}
YAMLS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("diarizer_*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_the_shipped_yaml_files_pass(path):
    with initialize_config_dir(str(path.parent), version_base=None):
        cfg = compose(path.stem)
    if OmegaConf.is_missing(cfg, "speech"):
        cfg.speech = "speech"  # what a user must give
    assert cfg.name == path.stem
    config = from_cfg(DiarizerConfig, cfg.model, path="model")
    assert config.encoder["feat_in"] == config.preprocessor["features"]


def test_there_are_yaml_files():
    assert {path.stem for path in YAMLS} >= {"diarizer_published", "diarizer_tiny", "diarizer_test"}


def test_single_keys_of_the_front_end_can_be_changed():
    config = from_cfg(DiarizerConfig, PARTS | {"preprocessor": {"features": 64}})
    assert (config.preprocessor["features"], config.preprocessor["window_stride"]) == (64, 0.01)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"level": "loud"}, "one of 'peak', 'rms', 'none'"),
        ({"max_num_of_spks": 0}, "at least 1"),
        ({"loss": {"sort_weight": 0, "pil_weight": 0}}, "One of `sort_weight` and `pil_weight`"),
        ({"loss": {"pil_weight": -1}}, "`pil_weight` must be at least 0"),
        ({"loss": {"tie_tolerance": -1}}, "`tie_tolerance`"),
        ({"affinity": {"dim": 0}}, "`dim` must be at least 1"),
        ({"inference": {"assignment": "clustering"}}, "needs the embeddings of `affinity`"),
        ({"encoder": {"d_model": 3}}, "`encoder` must say its class by `_target_`"),
        ({"preprocessor": {"sample_rate": 8000}}, "`preprocessor.sample_rate` must equal `sample_rate`"),
    ],
)
def test_settings_of_the_model_that_contradict_themselves(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_cfg(DiarizerConfig, PARTS | settings, path="model")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"manifest_filepath": "a", "cuts_path": "b"}, "Only one data source.*`manifest_filepath` and `cuts_path`"),
        ({"manifest_filepath": "a", "mixing": {}}, "Only one data source"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"session_len_sec": 0}, "`session_len_sec` must be positive"),
        ({"max_failed_share": 1.5}, r"`max_failed_share` must be in \[0, 1\]"),
        ({"soft_label_thres": 0}, "`soft_label_thres`"),
    ],
)
def test_settings_of_the_data_that_contradict_themselves(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_cfg(DatasetConfig, settings)


@pytest.mark.parametrize(
    "settings, source",
    [
        ({}, None),
        ({"manifest_filepath": "a"}, "manifest"),
        ({"manifest_filepath": "a", "use_lhotse": True}, "cuts"),
        ({"cuts_path": "a"}, "cuts"),
        ({"lhotse": {"shar_path": "a"}}, "cuts"),
        ({"mixing": {}}, "mixing"),
    ],
)
def test_the_source_of_data_follows_from_the_keys(settings, source):
    assert from_cfg(DatasetConfig, settings).source == source


@pytest.mark.parametrize("settings", [{"onset": 1.1}, {"min_duration_on": -1.0}, {"median_frames": 4}])
def test_post_processing_out_of_range(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        from_cfg(InferenceConfig, settings)


def test_post_processing_options_are_those_of_the_segment_maker():
    options = InferenceConfig(onset=0.6, assignment="heads").segment_options()
    assert options["onset"] == 0.6
    assert set(options) == {"onset", "offset", "pad_onset", "pad_offset", "min_duration_on", "min_duration_off"}
