# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to joint batches: every source, epochs, ranks and workers."""

import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_sortformer.config.joint_data import JointDatasetConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg
from nemo_sortformer.data.joint_loader import build_joint_loader
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer

RATE = 16_000


@pytest.fixture
def folder(tmp_path):
    """Six utterances of three speakers, two seconds each, and the same as sessions with SegLST."""
    single, sessions = [], []
    for number in range(6):
        name = f"u{number}"
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(number).uniform(-0.1, 0.1, 2 * RATE), RATE)
        text = f"word {number}"
        record = {"session_id": name, "speaker": "x", "start_time": 0.5, "end_time": 1.5, "words": text}
        (tmp_path / f"{name}.json").write_text(json.dumps([record]))
        single.append({"audio_filepath": f"{name}.wav", "speaker": f"s{number % 3}", "text": text})
        sessions.append({"audio_filepath": f"{name}.wav", "duration": 2.0, "seglst_filepath": f"{name}.json"})
    for name, lines in (("single", single), ("sessions", sessions)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def build(letters):
    def make(settings, **options):
        tokenizers = {"asr": SpeakerTokenizer(letters(), 4)}
        config = from_cfg(JointDatasetConfig, {"batch_size": 2, **settings})
        return build_joint_loader(config, tokenizers=tokenizers, num_slots=3, subsampling=8, **options)

    return make


def texts(loader):
    """The first text of each item; the labels must have as many frames as the audio."""
    tokenizer = loader.dataset.labeler.tokenizers["asr"]
    found = []
    for batch in loader:
        assert (batch.target_lengths == -(-batch.audio_lengths // 1280)).all()
        rows = zip(batch.texts["asr"].tokens.tolist(), batch.texts["asr"].lengths.tolist())
        found += [tuple(tokenizer.decode(row[:length])) for row, length in rows]
    return found


def test_a_manifest_is_shuffled_in_training_and_shared_among_ranks(folder, build):
    settings = {"manifest_filepath": str(folder / "sessions.jsonl")}
    in_order = [turn.text for (turn,) in texts(build(settings))]
    assert in_order == [f"word {number}" for number in range(6)]
    training = build(settings, training=True)
    training.sampler.set_epoch(1)
    shuffled = [turn.text for (turn,) in texts(training)]
    assert sorted(shuffled) == in_order != shuffled
    halves = [texts(build(settings, rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(turn.text for half in halves for (turn,) in half) == in_order


def test_single_speakers_with_text_are_a_manifest_too(folder, build):
    assert len(texts(build({"manifest_filepath": str(folder / "single.jsonl")}))) == 6


def test_utterances_are_mixed_anew_in_each_epoch_of_training_only(folder, build):
    settings = {"utterances": {"manifest": str(folder / "single.jsonl"), "sessions_per_epoch": 6}, "num_workers": 1}
    training, validation = build(settings, training=True), build(settings)
    first = texts(training)
    training.sampler.set_epoch(1)
    assert texts(training) != first
    assert texts(validation) == texts(validation) == first
    assert not hasattr(validation.sampler, "set_epoch")
    assert any(len(turns) > 1 for turns in first)


@pytest.mark.slow
def test_cuts_go_through_the_loader_of_nemo(folder, build):
    pytest.importorskip("nemo.collections.common.data.lhotse")
    settings = {"manifest_filepath": str(folder / "sessions.jsonl"), "use_lhotse": True}
    loader = build(settings)
    found = []
    for batch in loader:
        assert isinstance(batch.audio, torch.Tensor)
        assert batch.targets.any(1).sum(1).tolist() == [1] * len(batch.audio)
        found += batch.texts["asr"].lengths.tolist()
    assert len(found) == 6
    assert set(found) == {1 + len("_word_0")}


def test_levels_and_fields_reach_the_tokens(folder, build):
    settings = {"manifest_filepath": str(folder / "sessions.jsonl")}
    assert build(settings, levels={"asr": "word"}).dataset.labeler.levels == {"asr": "word"}
    assert build(settings, fields={"asr": "translation"}).dataset.labeler.fields == {"asr": "translation"}
    over = build({**settings, "text_fields": {"asr": "words"}}, fields={"asr": "translation"})
    assert over.dataset.labeler.fields == {"asr": "words"}


def test_no_source_is_an_error(build):
    with pytest.raises(ValueError, match="needs a source: set `manifest_filepath` .with words."):
        build({})


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"mixing": {}}, "`mixing` cuts utterances.* Set `utterances`"),
        ({"utterances": {}, "manifest_filepath": "a"}, "`utterances` and `manifest_filepath` are"),
        ({"utterances": {"sesions_per_epoch": 3}}, "Did you mean `sessions_per_epoch`"),
        ({"text_fields": {"asr": ""}}, "`text_fields` must name one text per head"),
        ({"unknown_text": "drop"}, "`unknown_text` must be one of 'warn', 'error'"),
        ({"utterances": {"utterances": [0, 2]}}, "`utterances` must be 1 or more"),
        ({"utterances": {"utterances": [3, 2]}}, "must be a pair"),
        ({"utterances": {"overlap_probability": [0.2, 1.2]}}, r"`overlap_probability` must be in \[0, 1\]"),
        ({"utterances": {"gap_seconds": [-0.2, 1.2]}}, "`gap_seconds` must not be negative"),
        ({"utterances": {"silent_share": 2}}, r"`silent_share` must be in \[0, 1\]"),
        ({"utterances": {"max_session_seconds": 0}}, "`max_session_seconds` must be more than 0"),
        ({"utterances": {"margin_seconds": -1}}, "`margin_seconds` must not be negative"),
        ({"utterances": {"reverb_seconds": [0, 1]}}, "`reverb_seconds` must be positive"),
        ({"utterances": {"same_voice_ratio": 1.0}}, "`same_voice_ratio` must be more than 1"),
        ({"utterances": {"speaker_count_weights": [0]}}, "`speaker_count_weights`"),
        ({"utterances": {"synthetic_speakers": 1, "synthetic_utterances": 0}}, "`synthetic_utterances` must be 1"),
        ({"utterances": {"synthetic_speakers": 1, "synthetic_languages": []}}, "`synthetic_languages` must name"),
    ],
)
def test_a_wrong_setting_names_itself(settings, match):
    with pytest.raises(ConfigError, match=match):
        from_cfg(JointDatasetConfig, settings)
