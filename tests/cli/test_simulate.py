# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`simulate` as a user runs it: every key of its settings works, and a wrong one is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.rttm import read_rttm, write_rttm
from nemo_sortformer.data.segment import Segment

RATE = 16_000


def run(*arguments):
    return CliRunner().invoke(app, ["simulate", *(str(argument) for argument in arguments)])


def hum(hertz: float, seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * np.sin(2 * np.pi * hertz * time) * (1.2 + np.sin(9 * time))


@pytest.fixture
def pool(tmp_path):
    """Three speakers, one of whom belongs to another split."""
    lines = []
    for number, (speaker, split) in enumerate([("ann", "train"), ("bob", "train"), ("cem", "dev")]):
        for k in range(3):
            soundfile.write(tmp_path / f"{speaker}{k}.wav", hum(150 + 90 * number, 1.5), RATE)
            lines.append(json.dumps({"audio_filepath": f"{speaker}{k}.wav", "speaker": speaker, "split": split}))
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def meetings(tmp_path):
    """One recorded conversation."""
    rng = np.random.default_rng(0)
    soundfile.write(
        tmp_path / "m.wav", np.concatenate([hum(300, 6.0), np.zeros(4 * RATE)]) + 1e-3 * rng.random(160_000), RATE
    )
    write_rttm(tmp_path / "m.rttm", [Segment(0.0, 4.0, "Real"), Segment(4.0, 6.0, "Other")], "m")
    path = tmp_path / "meetings.jsonl"
    path.write_text(json.dumps({"audio_filepath": "m.wav", "rttm_filepath": "m.rttm", "split": "train"}))
    return path


@pytest.fixture
def settings(tmp_path):
    """Write settings to a file."""

    def write(text: str) -> Path:
        path = tmp_path / "mixing.yaml"
        path.write_text(text)
        return path

    return write


def written(folder: Path) -> list[tuple[float, set[str]]]:
    """Length and speakers of each conversation."""
    entries = read_manifest(folder / "manifest.jsonl")
    return [
        (entry.duration, {s.speaker for found in read_rttm(entry.rttm_filepath).values() for s in found})
        for entry in entries
    ]


def test_recorded_conversations_take_the_share_that_the_settings_give(pool, meetings, settings, tmp_path):
    config = settings(
        f"recorded_manifest: {meetings}\nrecorded_split: train\nrecorded_share: 0.5\nsession_seconds: 5\n"
    )
    done = run(pool, tmp_path / "out", "--count", 12, "--speakers", 2, "--config", config)
    assert done.exit_code == 0, done.output
    assert "12 conversations of 5 s" in done.stdout
    found = written(tmp_path / "out")
    assert {seconds for seconds, _ in found} == {5.0}
    real = [bool(speakers & {"Real", "Other"}) for _, speakers in found]
    assert 0 < sum(real) < 12


def test_options_win_over_the_settings(pool, settings, tmp_path):
    config = settings("session_seconds: 5\nsplit: dev\nspeaker_count_weights: [1]\nmanifest: nowhere.jsonl\n")
    done = run(
        pool, tmp_path / "out", "--count", 4, "--seconds", 6, "--split", "train", "--speakers", 2, "--config", config
    )
    assert done.exit_code == 0, done.output
    for seconds, speakers in written(tmp_path / "out"):
        assert seconds == 6.0
        assert {name.split("x")[0] for name in speakers} <= {"ann", "bob"}
    done = run(pool, tmp_path / "dev", "--count", 2, "--config", config)
    assert done.exit_code == 0, done.output
    assert {name.split("x")[0] for _, speakers in written(tmp_path / "dev") for name in speakers} == {"cem"}


def test_without_settings_a_conversation_lasts_a_minute(pool, tmp_path):
    assert run(pool, tmp_path / "out", "--count", 1, "--speakers", 1).exit_code == 0
    assert [seconds for seconds, _ in written(tmp_path / "out")] == [60.0]


def test_the_voices_of_the_settings_need_no_manifest(settings, tmp_path):
    pytest.importorskip("espeakng_loader", reason="the synthesizer is an optional extra")
    config = settings("synthetic_speakers: 3\nspeaker_count_weights: [0, 1]\n")
    done = run("-", tmp_path / "out", "--count", 1, "--seconds", 8, "--config", config)
    assert done.exit_code == 0, done.output
    ((_, speakers),) = written(tmp_path / "out")
    assert all(name.startswith("synthetic0000") for name in speakers)


@pytest.mark.parametrize(
    "text, found",
    [
        ("sesion_seconds: 3\n", "Did you mean `session_seconds`"),
        ("gap_seconds: soon\n", "`gap_seconds` must be of type float"),
        ("[1, 2]\n", "must hold `key: value` lines"),
        ("a: [1\n", "is not YAML"),
        ("recorded_manifest: nowhere.jsonl\n", "nowhere.jsonl: there is no such file"),
    ],
)
def test_wrong_settings_end_with_one_line_that_names_them(pool, settings, tmp_path, text, found):
    done = run(pool, tmp_path / "out", "--config", settings(text))
    assert done.exit_code == 2
    assert found in done.stderr
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_no_voices_at_all_say_which_keys_give_some(tmp_path):
    done = run("-", tmp_path / "out")
    assert done.exit_code == 2
    assert "`synthetic_speakers`" in done.stderr
