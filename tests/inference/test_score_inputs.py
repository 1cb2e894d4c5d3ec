# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pairing of truth and answers: files, folders, manifests, names that differ, and what has no partner."""

import json

import pytest

from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.score_inputs import pair_sessions, read_truth, read_uem

ANN, BOB = [Segment(0.0, 1.0, "Ann")], [Segment(1.0, 2.0, "Bob")]


@pytest.fixture
def folder(tmp_path):
    def make(name, **recordings):
        place = tmp_path / name
        place.mkdir()
        for recording, segments in recordings.items():
            write_rttm(place / f"{recording}.rttm", segments, recording)
        return place

    return make


def by_name(pairing):
    return {s.recording: (list(s.reference), list(s.answer)) for s in pairing.sessions}


def test_folders_pair_by_name(folder):
    pairing = pair_sessions(folder("ref", a=ANN, b=BOB), folder("hyp", b=ANN, a=BOB))
    assert by_name(pairing) == {"a": (ANN, BOB), "b": (BOB, ANN)}
    assert (pairing.unanswered, pairing.unknown) == ([], [])


def test_one_file_with_many_recordings_pairs_with_a_folder(folder, tmp_path):
    many = tmp_path / "all.rttm"
    reference = folder("ref", a=ANN, b=BOB)
    many.write_text("".join(path.read_text() for path in sorted(reference.iterdir())))
    assert by_name(pair_sessions(many, reference)) == by_name(pair_sessions(reference, many))


def test_what_has_no_partner_is_told(folder):
    pairing = pair_sessions(folder("ref", a=ANN, b=BOB), folder("hyp", b=BOB, c=ANN))
    assert by_name(pairing) == {"a": (ANN, []), "b": (BOB, BOB)}
    assert (pairing.unanswered, pairing.unknown) == (["a"], ["c"])


def test_one_against_one_needs_no_equal_names(folder):
    assert by_name(pair_sessions(folder("ref", talk=ANN), folder("hyp", other=BOB))) == {"talk": (ANN, BOB)}


def test_a_file_is_known_by_its_own_name_where_its_lines_say_another(folder, tmp_path):
    reference = folder("ref", a=ANN, b=BOB)
    answers = tmp_path / "hyp"
    answers.mkdir()
    write_rttm(answers / "a.rttm", ANN, "channel1")
    write_rttm(answers / "b.rttm", BOB, "channel1")
    assert by_name(pair_sessions(reference, answers)) == {"a": (ANN, ANN), "b": (BOB, BOB)}


def test_an_empty_answer_is_a_silent_recording(folder):
    pairing = pair_sessions(folder("ref", a=ANN, b=BOB), folder("hyp", a=[], b=BOB))
    assert by_name(pairing)["a"] == (ANN, [])
    assert pairing.unanswered == []


def test_nothing_in_common_is_an_error_that_names_both_sides(folder):
    with pytest.raises(ValueError, match=r"answers are called `x`, `y`.*truth.*`a`, `b`"):
        pair_sessions(folder("ref", a=ANN, b=BOB), folder("hyp", x=ANN, y=BOB))


def test_two_answers_to_one_recording_are_an_error(folder, tmp_path):
    answers = folder("hyp", a=ANN, b=BOB)
    write_rttm(answers / "z.rttm", BOB, "a")
    with pytest.raises(ValueError, match="two answers"):
        pair_sessions(folder("ref", a=ANN, b=BOB), answers)


def test_a_manifest_gives_truth_and_stretch(folder, tmp_path):
    reference = folder("ref", a=ANN, b=BOB)
    lines = [
        {"audio_filepath": "a.wav", "rttm_filepath": "ref/a.rttm", "offset": 0.5, "duration": 2.0},
        {"audio_filepath": "b.wav", "rttm_filepath": "ref/b.rttm"},
    ]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    pairing = pair_sessions(manifest, reference)
    assert {s.recording: s.uem for s in pairing.sessions} == {"a": [(0.5, 2.5)], "b": None}
    assert by_name(pairing)["a"] == (ANN, ANN)


def test_a_uem_file_wins_over_the_manifest(folder, tmp_path):
    uem = tmp_path / "all.uem"
    uem.write_text(";; comment\n\na 1 0.0 0.5\na 1 0.75 1.0\n")
    reference = folder("ref", a=ANN, b=BOB)
    pairing = pair_sessions(reference, reference, uem=uem)
    assert {s.recording: s.uem for s in pairing.sessions} == {"a": [(0.0, 0.5), (0.75, 1.0)], "b": None}


@pytest.mark.parametrize("line", ["a 1 0.0", "a 1 2.0 1.0", "a 1 x 1.0", "a 1 -1 2", "a 1 0 nan", "a 1 0 inf"])
def test_a_bad_uem_line_is_named(tmp_path, line):
    uem = tmp_path / "all.uem"
    uem.write_text(f"a 1 0 1\n{line}\n")
    with pytest.raises(ValueError, match=r"all\.uem:2:"):
        read_uem(uem)


def test_missing_things_are_named(folder, tmp_path):
    there = folder("ref", a=ANN)
    for reference, answer in ((tmp_path / "no", there), (there, tmp_path / "no")):
        with pytest.raises(ValueError, match=r"no: there is no such file"):
            pair_sessions(reference, answer)
    with pytest.raises(ValueError, match=r"has no `\*\.rttm`"):
        pair_sessions(there, tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read_uem(tmp_path / "no.uem")


def test_segments_can_be_paired_directly(folder):
    pairing = pair_sessions(folder("ref", a=ANN, b=BOB), {"b": tuple(BOB)})
    assert by_name(pairing)["b"] == (BOB, BOB)
    assert pairing.unanswered == ["a"]


def test_the_truth_is_known_by_every_name(folder, tmp_path):
    place = folder("ref", a=ANN)
    write_rttm(place / "file.rttm", BOB, "inside")
    assert read_truth(place) == {"a": ANN, "inside": BOB, "file": BOB}
