# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Validation finds everything at once, and says how much good data there is."""

import json

import numpy as np
import pytest
import soundfile

from nemo_sortformer.data.validate import validate_manifest

RTTM = "SPEAKER {} 1 {} {} <NA> <NA> {} <NA> <NA>\n"


class Corpus:
    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def add(self, name="a", seconds=10.0, rttm=((0, 4, "ann"), (3, 4, "bob")), **keys):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(16000 * seconds))
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(self.folder / f"{name}.wav", samples, 16000)
        stem = name.split("/")[-1]
        (self.folder / f"{name}.rttm").write_text("".join(RTTM.format(stem, *row) for row in rttm))
        return self.line({"audio_filepath": f"{name}.wav", "rttm_filepath": f"{name}.rttm", **keys})

    def line(self, value):
        self.lines.append(value if isinstance(value, str) else json.dumps(value))
        return len(self.lines)

    def validate(self, **kwargs):
        path = self.folder / "manifest.jsonl"
        path.write_text("\n".join(self.lines) + "\n")
        return validate_manifest(path, **kwargs)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def test_a_good_manifest_has_no_problems_and_a_summary(corpus):
    corpus.add("a")
    corpus.add("b", offset=2.0, duration=4.0)
    report = corpus.validate()
    assert report == []
    summary = report.summary
    assert (summary.recordings, summary.speakers, summary.most_speakers) == (2, 4, 2)
    assert summary.hours == pytest.approx(14 / 3600)
    assert summary.speech_hours == pytest.approx((7 + 4) / 3600)  # 0-7 s, and 2-6 s
    assert summary.overlap_share == pytest.approx((1 + 1) / 11)


def test_everything_wrong_is_found_in_one_go(corpus):
    corpus.add("good")
    corpus.line("{not json")
    corpus.line({"duration": 3.0})
    corpus.line({"audio_filepath": "gone.wav", "rttm_filepath": "good.rttm"})
    corpus.add("late", offset=99.0)
    corpus.add("long", duration=60.0)
    corpus.add("crowd", rttm=[(0, 5, f"s{k}") for k in range(5)])
    corpus.add("badrttm", rttm=[(-1, 5, "ann"), (0, 1, "ann"), (1, "nan", "bob")])
    corpus.add("norttm")
    (corpus.folder / "norttm.rttm").unlink()
    corpus.line({"audio_filepath": "good.wav"})
    report = corpus.validate()
    found = [(problem.file.name, problem.line, problem.message) for problem in report.errors]
    expected = [
        ("manifest.jsonl", 2, "is not JSON"),
        ("manifest.jsonl", 3, "`audio_filepath` is missing"),
        ("manifest.jsonl", 4, "no such file"),
        ("manifest.jsonl", 5, "`offset` is 99 s"),
        ("manifest.jsonl", 6, "`offset` + `duration` is 60.000"),
        ("manifest.jsonl", 7, "5 speakers, but the model has 4 slots"),
        ("manifest.jsonl", 9, "no such file"),
        ("manifest.jsonl", 10, "neither `rttm_filepath`"),
        ("badrttm.rttm", 1, "`start` must be 0 or more"),
        ("badrttm.rttm", 3, "`duration` must be 0 or more"),
    ]
    assert [(name, line) for name, line, _ in found] == [(name, line) for name, line, _ in expected]
    for (_, _, message), (_, _, words) in zip(found, expected, strict=True):
        assert words in message
    assert report.summary.recordings == 8


def test_what_is_odd_but_usable_is_a_warning(corpus):
    corpus.add("x/a")
    corpus.add("x/a")
    corpus.add("y/a")
    corpus.add("silent", rttm=())
    corpus.add("short", rttm=[(0, 30, "ann")])
    corpus.add("count", num_speakers=3)
    corpus.add("other")
    (corpus.folder / "other.rttm").write_text(RTTM.format("another", 0, 1, "ann"))
    soundfile.write(corpus.folder / "other.wav", np.sign(np.sin(np.arange(160_000) / 20)), 16000)
    report = corpus.validate()
    assert report.errors == []
    words = {
        2: "same stretch is given in line 1",
        3: "has the name of",
        4: "nobody speaks",
        5: "reach to 30.000 s",
        6: "`num_speakers` is 3, but the labels name 2",
        7: "clipped|another",
    }
    assert sorted({problem.line for problem in report}) == sorted(words)
    for problem in report:
        assert any(word in problem.message for word in words[problem.line].split("|")), problem
        assert str(problem).startswith(f"{corpus.folder / 'manifest.jsonl'}:{problem.line}: warning: ")
    assert len(report) == 7


def test_windows_make_many_speakers_a_warning(corpus):
    corpus.add("crowd", rttm=[(k, 1, f"s{k}") for k in range(5)])
    assert corpus.validate(session_len_sec=3.0).errors == []
    assert len(corpus.validate(num_slots=4).errors) == 1
    assert corpus.validate(num_slots=5) == []


def test_headers_alone_do_not_show_nan(corpus):
    corpus.add("a")
    soundfile.write(corpus.folder / "a.wav", np.full(160_000, np.nan), 16000, subtype="FLOAT")
    assert len(corpus.validate().errors) == 1
    assert corpus.validate(decode=False) == []
    corpus.add("b", offset=8.0, duration=5.0)
    assert "8.000-13.000 s, but the file ends at 10.000" in corpus.validate(decode=False).errors[0].message


def test_an_empty_or_missing_manifest_is_a_problem(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n")
    assert [problem.message for problem in validate_manifest(tmp_path / "m.jsonl")] == ["has no entries."]
    report = validate_manifest(tmp_path / "missing.jsonl")
    assert [problem.message for problem in report] == ["there is no such file."]
    assert report.summary.recordings == 0
