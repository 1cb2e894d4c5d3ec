# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer transcribe` and `score --words` as a user runs them: files, words on the terminal, exit status."""

import json
import warnings

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference import transcribe as transcribe_module
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript

RATE = 16_000


class EveryHalfSecond(torch.nn.Module):
    """Hears the word `beep` each half second."""

    cfg = OmegaConf.create({"sample_rate": RATE})

    def transcribe(self, audio, **options):
        found = []
        for piece in audio:
            count = len(piece) // (RATE // 2)
            rows = [{"word": "beep", "start": k / 2 + 0.1, "end": k / 2 + 0.3} for k in range(count)]
            found.append(type("Hypothesis", (), {"text": "beep " * count, "timestamp": {"word": rows}})())
        return found


class Halves:
    """Stands for a diarizer; `run` is replaced by one that gives each half of a recording to another speaker."""

    frame_seconds = 0.08

    class config:  # noqa: D106, N801
        inference = None

    def diarize(self):
        """Nothing: `run` is replaced."""


@pytest.fixture
def models(monkeypatch):
    """Put both in the place of models, and split each recording in halves."""
    from nemo_sortformer.config.inference import InferenceConfig
    from nemo_sortformer.inference import engine

    diarizer = Halves()
    diarizer.config = type("Config", (), {"inference": InferenceConfig()})
    monkeypatch.setattr(
        transcribe_module, "load_pair", lambda *_, **__: transcribe_module.Models(EveryHalfSecond(), diarizer)
    )

    def halves(model, sources, options):
        for i, source in enumerate(sources):
            try:
                seconds = source.seconds()
            except ValueError as error:
                yield i, engine.Failure(source.name, str(error))
                continue
            middle = seconds / 2
            segments = (Segment(0.0, middle, "speaker_0"), Segment(middle, seconds, "speaker_1"))
            yield i, Diarization(recording=source.name, segments=segments, duration=seconds, source=source.path)

    monkeypatch.setattr(engine, "run", halves)


def run(*arguments):
    with warnings.catch_warnings():
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def wav(tmp_path):
    """A recording of four seconds."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.zeros(4 * RATE, np.float32), RATE)
    return path


def test_every_format_is_written_with_names(models, wav, tmp_path):
    out = tmp_path / "out"
    formats = "txt,seglst,stm,ctm,srt,vtt,rttm,png"
    done = run("transcribe", wav, "--asr", "a.nemo", "--out", out, "--format", formats, "--names", "speaker_1=Bob")
    assert done.exit_code == 0, done.output
    assert "8 words of 2 speakers in 0:04" in done.output
    assert {path.name for path in out.iterdir()} == {
        f"talk.{end}" for end in ("txt", "seglst.json", "stm", "ctm", "srt", "vtt", "rttm", "words.png")
    }
    assert (out / "talk.txt").read_text() == (
        "[0:00.1] speaker_0: beep beep beep beep\n[0:02.1] Bob: beep beep beep beep\n"
    )
    assert [record["speaker"] for record in json.loads((out / "talk.seglst.json").read_text())] == ["speaker_0", "Bob"]


def test_results_are_kept_and_the_truth_is_never_replaced(models, wav):
    assert run("transcribe", wav, "--asr", "a.nemo").exit_code == 0
    written = wav.with_name("talk.seglst.json")
    written.write_text("[]")
    again = run("transcribe", wav, "--asr", "a.nemo")
    assert again.exit_code == 1
    assert "is there already" in again.output
    assert written.read_text() == "[]"
    truth = run("transcribe", wav, "--asr", "a.nemo", "--reference", written, "--overwrite")
    assert truth.exit_code == 2
    assert "is the truth" in truth.output
    manifest = wav.with_name("manifest.jsonl")
    entry = {"audio_filepath": wav.name, "duration": 4.0, "seglst_filepath": written.name}
    manifest.write_text(json.dumps(entry) + "\n")
    named = run("transcribe", manifest, "--asr", "a.nemo", "--overwrite")
    assert named.exit_code == 1
    assert written.read_text() == "[]"
    assert run("transcribe", wav, "--asr", "a.nemo", "--overwrite").exit_code == 0
    assert "beep" in written.read_text()


def test_a_bad_file_costs_only_itself_and_good_ones_are_scored(models, wav, tmp_path):
    pytest.importorskip("meeteval", reason="meeteval is not installed (extra `words`)")
    broken = tmp_path / "broken.wav"
    broken.write_text("no audio")
    rows = [(0.1 + k / 2, "Ann" if k < 4 else "Bob") for k in range(8)]
    words = tuple(TranscribedWord("beep", start, start + 0.2, name) for start, name in rows)
    truth = tmp_path / "truth.json"
    Transcript(recording="talk", words=words, duration=4.0).to_seglst(truth)
    out = tmp_path / "out"
    done = run("transcribe", wav, broken, "--asr", "a.nemo", "--out", out, "--reference", truth)
    assert done.exit_code == 1
    assert "1 of 2 recordings failed" in done.output
    assert "broken" in done.output
    assert "cpWER" in done.output
    assert (out / "talk.txt").is_file()
    scored = run("score", truth, out / "talk.seglst.json", "--words", "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["total"]["cpwer"] == {
        "rate": 0.0,
        "errors": 0,
        "insertions": 0,
        "deletions": 0,
        "substitutions": 0,
        "words": 8,
    }
    table = run("score", truth, out / "talk.seglst.json", "--words")
    assert "100.0 % right" in table.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "`--asr` is missing"),
        (("--asr", "nowhere.nemo"), "`asr` must be a .nemo file, but `nowhere.nemo` is missing"),
        (("--asr", "a.nemo", "--format", "doc"), "`format` must be of txt, seglst"),
        (("--asr", "a.nemo", "--overlap", "both"), "`overlap` must be"),
        (("--asr", "a.nemo", "--asr-option", "source_lang"), "`--asr-option` must be `name=value`"),
        (("--asr", "a.nemo", "--names", "Ann"), "`--names` must be `name=value`"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(wav, arguments, message):
    done = run("transcribe", wav, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_scores_of_words_need_words(tmp_path, wav):
    done = run("score", tmp_path / "a.json", tmp_path / "b.json", "--words")
    assert done.exit_code == 2
    assert "no such file" in done.output
    done = run("score", wav, wav, "--words", "--uem", wav)
    assert done.exit_code == 2
    assert "--uem" in done.output
