# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The commands as a user runs them: what is written, what is said, and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.data.rttm import read_rttm, write_rttm
from nemo_sortformer.data.segment import Segment

CONFIG = Path(__file__).parents[2] / "configs" / "diarizer_test.yaml"
TRUTH = [Segment(0.0, 1.0, "Ann"), Segment(1.0, 2.5, "Bob")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random tiny model as a .nemo file."""
    import torch
    from omegaconf import OmegaConf

    from nemo_sortformer.models.diarizer import SortformerDiarizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.nemo"
    SortformerDiarizer(OmegaConf.load(CONFIG).model).save_to(str(path))
    return path


@pytest.fixture
def wav(tmp_path):
    """Write a recording of noise and return its path."""

    def write(name, seconds=2.5, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))
        soundfile.write(path, noise, 16000)
        return path

    return write


@pytest.fixture
def run():
    """Run a command; the result has exit_code, stdout, stderr and output (both)."""
    import warnings

    def invoke(*arguments):
        with warnings.catch_warnings():
            return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_help_is_fast_and_loads_neither_torch_nor_nemo():
    code = (
        "import sys; from nemo_sortformer.cli import app; from typer.testing import CliRunner; "
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output; "
        "assert not {'torch', 'nemo', 'lightning', 'matplotlib', 'scipy'} & set(sys.modules), 'heavy import'; "
        "print(r.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("diarize", "score", "validate", "simulate", "env", "demo"):
        assert name in done.stdout


def test_python_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "nemo_sortformer", "--help"], capture_output=True, text=True, check=True
    )
    assert "diarize" in done.stdout


def test_diarize_writes_beside_the_recording(run, wav, checkpoint):
    path = wav("talk.wav")
    done = run("diarize", path, "--model", checkpoint)
    assert done.exit_code == 0, done.output
    assert set(read_rttm(path.with_suffix(".rttm"))) <= {"talk"}
    assert "talk.rttm" in done.stdout


def test_diarize_writes_all_formats_into_a_folder_and_scores(run, wav, checkpoint, tmp_path):
    path = wav("talk.wav")
    write_rttm(tmp_path / "truth.rttm", TRUTH, "any")
    done = run(
        "diarize", path, "--model", checkpoint, "--output-dir", tmp_path / "out",
        "--format", "rttm,json,audacity,png", "--reference", tmp_path / "truth.rttm",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "talk.labels.txt", "talk.png", "talk.rttm", "talk.seglst.json",
    ]  # fmt: skip
    assert "DER" in done.stdout
    assert "(2)" in done.stdout, "the number of true speakers"


def test_one_bad_file_costs_only_itself(run, wav, checkpoint, tmp_path):
    paths = [wav("a.wav"), tmp_path / "missing.wav", wav("b.wav", seed=1)]
    done = run("diarize", *paths, "--model", checkpoint, "--output-dir", tmp_path / "out")
    assert done.exit_code == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.rttm", "b.rttm"]
    assert "1 of 3 recordings failed" in done.stderr
    assert "missing.wav: there is no such file" in done.stderr


def test_existing_results_stay_unless_told(run, wav, checkpoint):
    path = wav("talk.wav")
    truth = path.with_suffix(".rttm")
    write_rttm(truth, TRUTH, "talk")
    before = truth.read_text()
    done = run("diarize", path, "--model", checkpoint)
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert truth.read_text() == before
    assert run("diarize", path, "--model", checkpoint, "--overwrite").exit_code == 0
    assert truth.read_text() != before


def test_equal_names_get_separate_files(run, wav, checkpoint, tmp_path):
    paths = [wav("mon/talk.wav"), wav("fri/talk.wav", seed=1), tmp_path / "mon" / ".." / "mon" / "talk.wav"]
    done = run("diarize", *paths, "--model", checkpoint, "--output-dir", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["fri_talk.rttm", "mon_talk.rttm"]
    assert "given twice" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "no.nemo"], "no.nemo"),
        (["--format", "mp3"], "rttm, json, audacity, png"),
        (["--num-speakers", "0"], "at least 1"),
        (["--num-speakers", "9"], "at most 4"),
        (["--assignment", "votes"], "assignment"),
        (["--postprocessing", "no.yaml"], "no.yaml"),
        (["--reference", "no.rttm"], "no.rttm"),
        (["--batch-size", "0"], "batch_size"),
    ],
)
def test_wrong_options_are_one_readable_line(run, wav, checkpoint, arguments, message):
    given = ["--model", str(checkpoint), *arguments] if "--model" not in arguments else arguments
    done = run("diarize", wav("talk.wav"), *given)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_score_by_hand(run, tmp_path):
    write_rttm(tmp_path / "ref.rttm", [Segment(0, 4, "Ann"), Segment(4, 8, "Bob")], "talk")
    write_rttm(tmp_path / "hyp.rttm", [Segment(0, 4, "x"), Segment(4, 6, "y")], "talk")
    done = run("score", tmp_path / "ref.rttm", tmp_path / "hyp.rttm", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["conditions"][1] == {"collar": 0.0, "skip_overlap": False}
    total = report["total"][1]
    assert total["der"] == total["missed"] == pytest.approx(0.25)
    assert total["jer"] == pytest.approx(0.25)
    assert report["speaker_count_accuracy"] == 1.0
    table = run("score", tmp_path / "ref.rttm", tmp_path / "hyp.rttm").stdout
    assert "25.00" in table
    assert "talk" in table


def test_score_tells_what_has_no_partner(run, tmp_path):
    for folder, names in (("ref", "ab"), ("hyp", "bc")):
        (tmp_path / folder).mkdir()
        for name in names:
            write_rttm(tmp_path / folder / f"{name}.rttm", TRUTH, name)
    done = run("score", tmp_path / "ref", tmp_path / "hyp", "--json")
    assert "counted as missed: a" in done.stderr
    assert "not scored: c" in done.stderr
    assert json.loads(done.stdout)["total"][1]["der"] == pytest.approx(0.5)


def test_score_of_a_bad_rttm_names_file_and_line(run, tmp_path):
    (tmp_path / "bad.rttm").write_text("\nSPEAKER a 1 -1 2 <NA> <NA> x <NA> <NA>\n")
    write_rttm(tmp_path / "ref.rttm", TRUTH, "a")
    done = run("score", tmp_path / "ref.rttm", tmp_path / "bad.rttm")
    assert done.exit_code == 2
    assert "bad.rttm:2" in done.stderr


def test_validate_finds_problems_and_says_so_in_its_status(run, wav, tmp_path):
    wav("a.wav")
    write_rttm(tmp_path / "a.rttm", TRUTH, "a")
    good = {"audio_filepath": "a.wav", "duration": 2.5, "offset": 0.0, "rttm_filepath": "a.rttm"}
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps(good))
    assert run("validate", manifest).exit_code == 0
    manifest.write_text(json.dumps(good) + "\n" + json.dumps({**good, "audio_filepath": "gone.wav"}) + "\n{")
    done = run("validate", manifest)
    assert done.exit_code == 1
    assert "m.jsonl:2" in done.stderr
    assert "m.jsonl:3" in done.stderr
    assert "2 errors" in done.stdout


def test_simulate_writes_conversations_that_validate(run, tmp_path):
    lines = []
    for speaker in ("ann", "bob"):
        for k in range(3):
            time = np.arange(24000) / 16000
            voice = np.sin(2 * np.pi * (150 if speaker == "ann" else 240) * time) * (1 + np.sin(9 * time)) * 0.1
            soundfile.write(tmp_path / f"{speaker}{k}.wav", voice, 16000)
            lines.append(json.dumps({"audio_filepath": f"{speaker}{k}.wav", "speaker": speaker}))
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join(lines))
    arguments = ("simulate", pool, tmp_path / "out", "--count", 2, "--seconds", 8, "--speakers", 2)
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert run("validate", tmp_path / "out" / "manifest.jsonl").exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_env_names_versions_and_warns_of_the_other_apex(run):
    rows = json.loads(run("env", "--json").stdout)
    assert rows["torch"].startswith("2")
    assert "python" in rows
    if "not installed" in rows["NVIDIA apex"]:
        assert "never by `pip install apex`" in rows["NVIDIA apex"]
    for name in ("Transformer Engine", "megatron-core", "flash-attn", "triton"):
        assert "usable" in rows[name]
    assert {"auto precision", "auto optimizer", "auto attention", "auto compile"} <= rows.keys()


def test_demo_writes_its_four_files(run, checkpoint, tmp_path):
    pytest.importorskip("espeakng_loader", reason="the synthesizer is an optional extra")
    folder = tmp_path / "demo"
    done = run("demo", "--model", checkpoint, "--output-dir", folder, "--seconds", 12)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in folder.iterdir()) == ["demo.png", "demo.rttm", "demo.wav", "demo_reference.rttm"]
    assert "DER" in done.stdout
    assert "Who spoke when" in done.stdout


def test_a_stopped_run_of_a_long_recording_goes_on(run, wav, checkpoint, monkeypatch):
    from nemo_sortformer.inference import windows

    path, runs, stop_at = wav("long.wav", 305.0), [], 4
    real = windows.run_features

    def watched(*arguments):
        if len(runs) == stop_at:
            raise KeyboardInterrupt
        runs.append(1)
        return real(*arguments)

    monkeypatch.setattr(windows, "run_features", watched)
    command = ("diarize", path, "--model", checkpoint, "--assignment", "clustering", "--batch-size", 2)
    done = run(*command)
    assert done.exit_code == 130
    assert "Stopped" in done.stderr
    partial = path.with_suffix(".partial")
    assert partial.exists()
    stop_at = None
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert "earlier run" in done.stderr
    assert path.with_suffix(".rttm").exists()
    assert not partial.exists()
    together = len(runs)
    runs.clear()
    first = path.with_suffix(".rttm").read_text()
    partial.write_bytes(b"")
    assert run(*command, "--overwrite", "--no-resume").exit_code == 0
    assert len(runs) == together, "what was done was not done again"
    assert path.with_suffix(".rttm").read_text() == first
