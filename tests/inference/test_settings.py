# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of a run: who wins, and what a wrong key says."""

import pytest

from nemo_sortformer.config.inference import ClusteringConfig, InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.settings import inference_settings, read_postprocessing

BASE = InferenceConfig(onset=0.6, pad_onset=0.1)


@pytest.fixture
def yaml(tmp_path):
    def write(text):
        path = tmp_path / "post.yaml"
        path.write_text(text)
        return path

    return write


def test_the_models_own_settings_stand_unless_changed():
    assert inference_settings(BASE) == BASE
    assert inference_settings(BASE, override={"offset": 0.3}) == InferenceConfig(onset=0.6, pad_onset=0.1, offset=0.3)


def test_the_yaml_wins_over_the_model_and_the_override_over_both(yaml):
    path = yaml("parameters:\n  onset: 0.64\n  offset: 0.74\n  pad_onset: 0.06\n")
    settings = inference_settings(BASE, postprocessing_yaml=path, override={"onset": 0.2})
    assert (settings.onset, settings.offset, settings.pad_onset) == (0.2, 0.74, 0.06)


def test_a_whole_config_replaces_everything():
    other = InferenceConfig(median_frames=3)
    assert inference_settings(BASE, override=other) is other


@pytest.mark.parametrize(
    "text, message",
    [
        ("parameters:\n  onsett: 0.5\n", "onsett.*Did you mean .onset."),
        ("parameters:\n  onset: 1.5\n", r"\[0, 1\]"),
        ("parameters:\n  onset: high\n", "onset.*float"),
        ("onset: 0.5\n", "parameters"),
        ("parameters: [1]\n", "parameters"),
        ("{", "not YAML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(yaml, text, message):
    with pytest.raises(ConfigError, match=message):
        read_postprocessing(yaml(text))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="must be a file"):
        read_postprocessing(tmp_path / "no.yaml")


def test_a_wrong_override_says_what_is_wrong():
    with pytest.raises(ConfigError, match="Did you mean .assignment."):
        inference_settings(BASE, override={"asignment": "heads"})
    with pytest.raises(ConfigError, match="assignment"):
        inference_settings(BASE, override={"assignment": "votes"})


def test_one_key_of_the_clustering_leaves_the_others():
    base = InferenceConfig(clustering=ClusteringConfig(threshold=0.3, min_frames=7))
    merged = inference_settings(base, override={"clustering": {"threshold": 0.5}}).clustering
    assert (merged.threshold, merged.min_frames) == (0.5, 7)
    with pytest.raises(ConfigError, match="treshold.*Did you mean .threshold."):
        inference_settings(base, override={"clustering": {"treshold": 0.5}})


def test_nemos_diarize_config_is_understood():
    from nemo.collections.asr.parts.mixins.diarization import DiarizeConfig
    from nemo.collections.asr.parts.utils.vad_utils import PostProcessingParams

    assert inference_settings(BASE, override=DiarizeConfig()) == BASE
    config = DiarizeConfig(postprocessing_params=PostProcessingParams(onset=0.25))
    assert inference_settings(BASE, override=config).onset == 0.25
    with pytest.raises(ConfigError, match="session_len_sec"):
        inference_settings(BASE, override=DiarizeConfig(session_len_sec=20.0))


def test_a_thing_that_is_no_config():
    with pytest.raises(ConfigError, match="group of keys"):
        inference_settings(BASE, override=[1, 2])
