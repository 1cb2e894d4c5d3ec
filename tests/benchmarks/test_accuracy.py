# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The accuracy benchmark: intervals and reference systems by hand, the command with an answer that is known."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from benchmarks import accuracy, baselines
from benchmarks.accuracy_report import (
    WITH_COLLAR,
    WITHOUT_COLLAR,
    find_limits,
    interval,
    resampled_rates,
    speakers_table,
    summarize,
)
from benchmarks.baselines import SETTINGS, Features, cluster_with_truth, mfcc, one_speaker, speech_spans
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.score import Session, score_sessions
from nemo_sortformer.inference.score_inputs import pair_sessions

ROOT = Path(__file__).resolve().parents[2]
TRUTH = [Segment(0.0, 6.0, "Ann"), Segment(5.0, 9.0, "Bob"), Segment(9.0, 10.0, "Ann")]
"""11 s of speaker time in 10 s; Ann 7 s, Bob 4 s, both for 1 s."""


def test_two_recordings_have_the_bootstrap_that_a_pencil_gives():
    # draws: first twice 1/4: 1/10; both 1/2: (1 + 9)/40, not the mean of the rates 0.2; second twice 1/4: 9/30
    rates = resampled_rates([1.0, 9.0], [10.0, 30.0])
    values, counts = np.unique(rates.round(9), return_counts=True)
    assert values.tolist() == [0.1, 0.25, 0.3]
    np.testing.assert_allclose(counts / len(rates), [0.25, 0.5, 0.25], atol=0.03)
    assert interval(rates, 0.9) == (0.1, 0.3)
    assert interval(rates, 0.4) == (0.25, 0.25)
    assert interval(np.linspace(0, 1, 101), 0.9) == (0.05, 0.95)  # a twentieth on each side


def test_the_bootstrap_is_seeded_and_its_differences_are_paired():
    totals = np.array([30.0, 50.0, 20.0, 45.0])
    errors = np.array([3.0, 1.0, 8.0, 2.0])
    np.testing.assert_array_equal(resampled_rates(errors, totals), resampled_rates(errors, totals))
    assert (resampled_rates(errors, totals) != resampled_rates(errors, totals, seed=1)).any()
    gap = resampled_rates(errors + 0.1 * totals, totals) - resampled_rates(errors, totals)
    np.testing.assert_allclose(gap, 0.1, rtol=0, atol=1e-12)  # worse by a tenth everywhere: nothing is left to chance


def test_one_recording_has_no_spread_and_silence_has_the_rate_zero():
    assert interval(resampled_rates([2.0], [8.0])) == (0.25, 0.25)
    assert interval(resampled_rates([1.0], [0.0])) == (0.0, 0.0)


def test_the_one_speaker_guess_costs_all_but_the_longest_speaker():
    answer = one_speaker(TRUTH)
    assert answer == [Segment(0.0, 10.0, "speaker_0")]
    assert speech_spans([Segment(0.0, 9.0, "Ann"), Segment(2.0, 3.0, "Bob"), Segment(9.5, 10.0, "Bob")]) == [
        (0.0, 9.0),
        (9.5, 10.0),
    ]
    report = score_sessions([Session("talk", TRUTH, answer)])
    counts = report.total(WITHOUT_COLLAR)  # Ann is matched: Bob is missed for 1 s beside her and confused for 3 s
    assert (counts.missed, counts.false_alarm, counts.confusion) == pytest.approx((1.0, 0.0, 3.0))
    assert counts.der == pytest.approx(4 / 11)
    assert report.speaker_count_accuracy == 0


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_clustering_with_truth_separates_what_is_apart_and_answers_exactly_the_true_speech(setting):
    turns = [
        Segment(0.3, 6.01, "Ann"),
        Segment(7.0, 13.5, "Bob"),
        Segment(15.0, 21.0, "Ann"),
        Segment(22.0, 28.0, "Cy"),
    ]
    values = np.random.default_rng(0).normal(0, 0.05, (2900, 6))  # every 10 ms, to 29 s
    for turn in turns:
        values[round(100 * turn.start) : round(100 * turn.end), ["Ann", "Bob", "Cy"].index(turn.speaker)] += 1
    for with_spread in (False, True):
        features = Features(Session("talk", turns, []), values, 0.01, with_spread)
        answer = cluster_with_truth(features, setting)
        np.testing.assert_allclose(speech_spans(answer), speech_spans(turns), rtol=0, atol=1e-9)
        report = score_sessions([features.session._replace(answer=answer)])
        assert report.speaker_count_accuracy == 1
        assert report.total(WITH_COLLAR).der < 0.05


def test_clustering_with_truth_takes_labels_beyond_the_last_frame_and_silence():
    late = Features(Session("late", TRUTH, []), np.ones((120, 4)), 0.08, False)  # frames end at 9.6 s, labels at 10 s
    assert speech_spans(cluster_with_truth(late, SETTINGS[0])) == [(0.0, 10.0)]
    assert cluster_with_truth(late._replace(session=Session("none", [], [])), SETTINGS[0]) == []


def test_the_setting_with_the_lowest_error_is_chosen(monkeypatch):
    def answer(features, setting):
        return TRUTH if setting is SETTINGS[4] else one_speaker(TRUTH)

    monkeypatch.setattr(baselines, "cluster_with_truth", answer)
    recordings = [Features(Session("talk", TRUTH, []), np.zeros((1, 1)), 0.08, False)]
    assert baselines.choose_setting(recordings) is SETTINGS[4]


def test_mfcc_come_every_ten_milliseconds_and_do_not_hear_the_level():
    audio = np.random.default_rng(0).normal(0, 0.1, 16001).astype(np.float32)
    features = mfcc(audio)
    assert features.shape == (101, 20)
    np.testing.assert_allclose(mfcc(4 * audio)[:-1], features[:-1], atol=1e-3)
    times = np.arange(16000) / 16000
    low, high = (mfcc(np.sin(2 * np.pi * hertz * times))[50] for hertz in (200, 3000))
    assert low[0] > high[0]  # the first coefficient is the slope of the spectrum, downwards


def report_of_three():
    """Right; all missed; one of two speakers found, the other missed."""
    pair = [Segment(0.0, 10.0, "Ann"), Segment(10.0, 20.0, "Bob")]
    three = [*pair, Segment(20.0, 30.0, "Cy")]
    return score_sessions([Session("good", pair, pair), Session("deaf", three, []), Session("half", pair, pair[:1])])


def test_a_summary_has_groups_by_number_of_speakers_and_is_json():
    summary = json.loads(json.dumps(summarize(report_of_three())))
    assert list(summary) == ["all", "2", "3"]
    assert [summary[group]["recordings"] for group in summary] == [3, 2, 1]
    assert summary["all"]["collar_0"]["der"] == pytest.approx(40 / 70, abs=1e-6)
    assert summary["2"]["collar_0"]["der"] == pytest.approx(10 / 40)
    assert summary["2"]["collar_0"]["interval"] == [0.0, 0.5]
    assert summary["3"]["collar_0.25"]["missed"] == 1
    assert summary["all"]["jer"] == pytest.approx(4 / 7, abs=1e-6)  # Jaccard error 1 of four of seven speakers
    assert summary["all"]["speaker_count_accuracy"] == pytest.approx(1 / 3, abs=1e-6)


def test_limits_say_where_the_error_is():
    limits = json.loads(json.dumps(find_limits(report_of_three(), worst=2)))
    assert limits["error_share"] == {"missed": 1.0, "false_alarm": 0.0, "confusion": 0.0}
    shares = [part["error_share"] for part in limits["by_speakers"].values()]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert shares[1] > 0.7  # 30 of the 40 s are of the recording with three
    assert limits["count_right"] == {"recordings": 1, "der": 0.0, "error_share": 0.0}
    assert limits["too_few_speakers"]["recordings"] == 2
    assert [worst["recording"] for worst in limits["worst"]] == ["deaf", "half"]
    assert limits["worst"][0]["answered_speakers"] == 0


@pytest.fixture
def speech_folder(tmp_path):
    """Sessions and excerpts of noise in which Ann's is low and Bob's is high, labelled as TRUTH."""
    generator = np.random.default_rng(0)
    for folder, names in (
        ("sessions/test", ["t0", "t1"]),
        ("sessions/dev", ["d0"]),
        ("conversations", ["seen", "heard"]),
    ):
        place = tmp_path / "speech" / folder
        place.mkdir(parents=True)
        lines = []
        for name in names:
            noise = generator.normal(0, 0.1, 160_000)
            noise[96_000:144_000] = np.diff(noise[96_000:144_000], prepend=0.0)  # Bob alone: 6 s to 9 s
            soundfile.write(place / f"{name}.wav", noise.clip(-1, 1), 16000)
            write_rttm(place / f"{name}.rttm", TRUTH, name)
            (place / f"{name}.uem").write_text(f"{name} 1 0.000 10.000\n")
            line = {"audio_filepath": f"{name}.wav", "rttm_filepath": f"{name}.rttm", "uem_filepath": f"{name}.uem"}
            lines.append(json.dumps({**line, "split": "train" if name == "seen" else "test"}))
        (place / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "speech"


@pytest.fixture
def perfect_command(monkeypatch, tmp_path):
    """The command line answers with the truth; the model has no embeddings. Gives the commands that were run."""
    commands = []

    def run(command, **_):
        commands.append(command)
        output = Path(command[command.index("--output-dir") + 1])
        output.mkdir()
        for session in pair_sessions(command[command.index("diarize") + 1], {name: [] for name in ANSWERED}).sessions:
            write_rttm(output / f"{session.recording}.rttm", session.reference, session.recording)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    model = SimpleNamespace(config=SimpleNamespace(inference=SimpleNamespace(assignment="heads")), affinity_head=None)
    monkeypatch.setattr(accuracy, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(accuracy, "load_model", lambda path: model)
    monkeypatch.setattr(accuracy, "quiet_nemo", lambda verbose: None)
    (tmp_path / "x.nemo").write_bytes(b"weights")
    return commands


ANSWERED = ("t0", "t1", "d0", "heard", "seen")


def test_the_command_writes_tables_json_and_a_picture(speech_folder, perfect_command, tmp_path, capsys):
    model, out = tmp_path / "x.nemo", tmp_path / "out"
    accuracy.main(["--speech", str(speech_folder), "--model", str(model), "--out", str(out)])
    assert [command[-2:] for command in perfect_command] == [["--model", str(model)]] * 3

    record = json.loads((out / "accuracy.json").read_text())
    assert set(record) >= {"command", "commit", "machine", "versions", "checkpoint", "bootstrap", "sets", "limits"}
    assert record["versions"]["torch"]
    assert record["checkpoint"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert record["bootstrap"] == {"resamples": 2000, "seed": 0, "level": 0.9, "over": "recordings, errors pooled"}
    assert {name: set_["the model"]["all"]["recordings"] for name, set_ in record["sets"].items()} == {
        "sessions/test": 2,
        "sessions/dev": 1,
        "AMI test": 1,  # of the two excerpts one is of split test
    }
    for systems in record["sets"].values():
        assert systems["the model"]["all"]["collar_0.25"]["der"] == 0
        assert systems["one speaker, true speech"]["all"]["collar_0"]["der"] == pytest.approx(4 / 11, abs=1e-6)
        assert systems["one speaker, its own speech detection"] == systems["one speaker, true speech"]
        assert systems["MFCC clustered, true speech and count"]["all"]["collar_0.25"]["der"] < 0.25
    assert list(record["chosen_on_dev"]) == ["MFCC clustered, true speech and count"]
    assert (out / "images" / "accuracy.png").read_bytes()[1:4] == b"PNG"

    printed = capsys.readouterr().out
    assert "| the model | 0.0 | 0.0 | 0.0 / 0.0 / 0.0 | 0.0 | 100 |" in printed
    assert "What limits it" in printed


@pytest.mark.parametrize("name", ["sessions/test", "sessions/dev", "AMI test"])
def test_the_page_of_results_says_what_was_measured(name):
    record = json.loads((ROOT / "docs" / "accuracy.json").read_text())
    page = (ROOT / "docs" / "results.md").read_text()
    shipped = ROOT / "nemo_sortformer" / "checkpoints" / record["checkpoint"]["file"]
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == record["checkpoint"]["sha256"]
    assert f"{record['commit']}" in page
    assert speakers_table(record["sets"][name], "collar_0.25") in page


def test_a_failed_command_and_a_missing_folder_stop_the_run(speech_folder, monkeypatch, tmp_path):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="t0: cannot be read")
    monkeypatch.setattr(accuracy, "subprocess", SimpleNamespace(run=lambda command, **_: failed))
    speech_set = accuracy.find_sets(speech_folder, tmp_path)[0]
    with pytest.raises(SystemExit, match="t0: cannot be read"):
        accuracy.diarize(speech_set, tmp_path / "answers")
    with pytest.raises(SystemExit, match="--speech"):
        accuracy.find_sets(tmp_path / "nowhere", tmp_path)


def test_the_embeddings_of_a_model_are_clustered_with_the_truth(speech_folder, tmp_path, monkeypatch):
    from nemo_sortformer.inference import windows

    def windowed_outputs(model, audio):
        frames = np.zeros((125, 2), dtype=np.float32)
        frames[:75, 0], frames[75:, 1] = 1, 1  # 80 ms each: Bob's voice from 6 s on
        return windows.Outputs(np.zeros((125, 4)), frames)

    monkeypatch.setattr(windows, "windowed_outputs", windowed_outputs)
    model = SimpleNamespace(config=SimpleNamespace(sample_rate=16000), frame_seconds=0.08)
    speech_set = accuracy.find_sets(speech_folder, tmp_path)[0]
    sessions = pair_sessions(speech_set.manifest, {"t0": [], "t1": []}).sessions
    for features in accuracy.hear(speech_set, sessions, model):
        answer = cluster_with_truth(features, SETTINGS[0])
        # 1 s of Bob missed beside Ann, and Ann's last second given to Bob
        der = score_sessions([features.session._replace(answer=answer)]).total(WITHOUT_COLLAR).der
        assert der == pytest.approx(2 / 11, abs=1e-6)


def test_the_one_speaker_guess_on_real_speech_is_what_a_frame_count_gave(speech_data):
    sessions = pair_sessions(speech_data / "sessions/test/manifest.jsonl", speech_data / "sessions/test").sessions
    report = score_sessions([s._replace(answer=one_speaker(s.reference)) for s in sessions])
    assert report.total(WITH_COLLAR).der == pytest.approx(0.429, abs=0.003)
    assert report.total(WITHOUT_COLLAR).der == pytest.approx(0.460, abs=0.003)
