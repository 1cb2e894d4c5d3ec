# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Tuning measures what `diarize` and `score` would say, finds settings that were hidden, and writes them down."""

import json

import numpy as np
import pytest

from nemo_sortformer.config.inference import ClusteringConfig, InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.rttm import format_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference import engine, windows
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.exact_score import Truth
from nemo_sortformer.inference.score import Condition, score_sessions
from nemo_sortformer.inference.score_inputs import pair_sessions
from nemo_sortformer.inference.tune import (
    GRIDS,
    Objective,
    Recording,
    Search,
    Trial,
    changed,
    get,
    run_network,
    save_with,
    steady,
)
from nemo_sortformer.inference.windows import Outputs

EXACT = Condition(0.0)


@pytest.fixture
def labelled(wav, tmp_path, random_session):
    """Write recordings, their RTTM files and a manifest; entries may be given further keys."""

    def make(name, *lengths, **keys):
        lines = []
        for number, seconds in enumerate(lengths):
            stem = f"{name}_{number}"
            path = wav(f"{stem}.wav", seconds, seed=len(name) + number)
            truth, _ = random_session(number, seconds=seconds)
            (tmp_path / f"{stem}.rttm").write_text(format_rttm(truth, stem))
            (tmp_path / f"{stem}.uem").write_text(f"{stem} 1 1.5 {seconds - 2.25}\n")
            line = {"audio_filepath": path.name, "rttm_filepath": f"{stem}.rttm"}
            if keys.get("uem"):
                line["uem_filepath"] = f"{stem}.uem"
            lines.append(json.dumps(line | {k: v for k, v in keys.items() if k != "uem"}) + "\n")
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(lines))
        return path

    return make


def two_voices(speech=0.62, silence=0.45, seconds=40, seed=0):
    """Two speakers in turns of 2 s; the heads hear them faintly, and something in between. Frames of 80 ms."""
    rng = np.random.default_rng(seed)
    frames = int(seconds / 0.08)
    labels = np.zeros((frames, 2), bool)
    for turn, start in enumerate(range(0, frames - 37, 37)):
        labels[start : start + 25, turn % 2] = True
    probs = np.where(labels, speech, silence) + 0.02 * rng.standard_normal(labels.shape)
    segments = []
    for speaker in range(2):
        edges = np.flatnonzero(np.diff(np.pad(labels[:, speaker].astype(int), 1))).reshape(-1, 2) * 0.08
        segments += [Segment(float(a), float(b), f"s{speaker}") for a, b in edges]
    outputs = Outputs(probs.astype(np.float32), None)
    return Recording(outputs, Truth(segments, EXACT), frames * 0.08, 0.0)


@pytest.mark.parametrize("assignment", ["heads", "clustering"])
@pytest.mark.parametrize("condition", [Condition(0.25), Condition(0.0, skip_overlap=True)], ids=str)
def test_the_rate_is_that_of_diarize_and_score(tiny_model, labelled, assignment, condition):
    config = InferenceConfig(
        assignment=assignment, onset=0.55, offset=0.4, min_duration_off=0.3, median_frames=3, pad_onset=0.05
    )
    manifests = [
        labelled("whole", 6.0, 9.0),
        labelled("parts", 12.0, offset=2.0, duration=7.5),
        labelled("scored_in_part", 8.0, uem=True),
        labelled("long", 31.0),
    ]
    sets = [run_network(tiny_model, path, condition=condition, config=config) for path in manifests]
    objective = Objective(sets, tiny_model.frame_seconds)
    rates = []
    for path, counts in zip(manifests, objective.counts(config), strict=True):
        answers = {d.recording: d.segments for d in diarize_recordings(tiny_model, path, override_config=config)}
        report = score_sessions(pair_sessions(path, answers).sessions, [condition])
        assert counts.der == pytest.approx(report.total(condition).der, abs=1e-6)
        assert counts.speech == pytest.approx(report.total(condition).speech, abs=1e-4)
        rates.append(counts.der)
    assert objective(config) == pytest.approx(np.mean(rates))
    assert len(set(rates)) > 1


def test_hidden_thresholds_are_found():
    objective = Objective([[two_voices(), two_voices(seed=1)]], 0.08)
    tuning = Search(objective, InferenceConfig(onset=0.4, offset=0.4, median_frames=1), GRIDS).run()
    assert tuning.before[0].der > 0.5
    assert tuning.after[0].der < 0.01
    assert 0.5 <= tuning.config.onset <= 0.6
    onset = next(trial for trial in tuning.trials if trial.setting == "onset")
    assert onset.worth > 0.3
    assert onset.rates[tuning.config.onset] == pytest.approx(tuning.after[0].der)
    assert onset.rates[0.4] == max(onset.rates[value] for value in (0.4, 0.5, 0.55, 0.6))


def test_settings_that_gain_nothing_stay():
    objective = Objective([[two_voices(speech=0.99, silence=0.01)]], 0.08)
    start = InferenceConfig(onset=0.47, offset=0.47)
    tuning = Search(objective, start, GRIDS).run()
    assert tuning.config == start
    assert all(trial.worth == 0 for trial in tuning.trials)
    assert not any(trial.setting.startswith("clustering.") for trial in tuning.trials)


def test_of_equally_good_values_the_middle_one_is_taken():
    objective = Objective([[two_voices(speech=0.68, silence=0.32)]], 0.08)
    grids = {"onset": (0.3, 0.45, 0.5, 0.55, 0.9)}
    assert Search(objective, InferenceConfig(onset=0.3, offset=0.3), grids).run().config.onset == 0.5


def test_a_value_that_is_good_by_accident_is_not_taken():
    lucky = dict(zip((0.3, 0.4, 0.5, 0.6, 0.7), (0.30, 0.10, 0.30, 0.12, 0.12), strict=True))
    rates = steady(lucky)
    assert min(rates, key=rates.get) == 0.7
    np.testing.assert_allclose(list(rates.values()), [0.25, 0.2, 0.205, 0.165, 0.12])
    assert steady({0.5: 0.2}) == {0.5: pytest.approx(0.2)}


def test_sets_count_alike_however_long_they_are():
    long = [two_voices(speech=0.9, silence=0.5, seconds=200)]  # wants an onset above 0.5
    short = [two_voices(speech=0.5, silence=0.1, seconds=20)]  # wants one below
    objective = Objective([long, short], 0.08)
    rates = [counts.der for counts in objective.counts(InferenceConfig(onset=0.7, offset=0.7))]
    assert rates == pytest.approx([0.0, 1.0], abs=0.02)
    assert objective(InferenceConfig(onset=0.7, offset=0.7)) == pytest.approx(np.mean(rates))


def test_the_clustering_is_tuned_where_it_is_used():
    rng = np.random.default_rng(0)
    one = two_voices(speech=0.95, silence=0.05)
    voices = np.array([[1.0, 0.0, 0.0], [0.5, 0.87, 0.0]])  # so alike that a low threshold makes them one
    place = one.outputs.probs[:, 1] > 0.5
    embeddings = voices[place.astype(int)] + 0.03 * rng.standard_normal((len(place), 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    recording = Recording(one.outputs._replace(embeddings=embeddings), one.truth, one.duration, 0.0)
    start = InferenceConfig(assignment="clustering", clustering=ClusteringConfig(threshold=0.3))
    tried = []
    search = Search(
        Objective([[recording]], 0.08), start, GRIDS, on_trial=lambda setting, value, rate: tried.append(setting)
    )
    tuning = search.run()
    assert tuning.before[0].der > 0.4
    assert tuning.after[0].der < 0.05
    assert tuning.config.clustering.threshold > 0.5
    assert set(tried) == set(GRIDS)


def test_the_network_runs_once_per_recording(tiny_model, labelled, monkeypatch):
    calls = []
    original = windows.batch_outputs
    monkeypatch.setattr(engine, "batch_outputs", lambda *args: calls.append(1) or original(*args))
    done = []
    tiny_model.train()
    config = InferenceConfig()
    path = labelled("talk", 3.0, 4.0)
    sets = [run_network(tiny_model, path, condition=EXACT, config=config, advance=lambda: done.append(1))]
    assert tiny_model.training
    tiny_model.eval()
    Search(Objective(sets, tiny_model.frame_seconds), config, {"onset": (0.3, 0.5, 0.7)}).run()
    assert len(calls) == len(done) == 2


def test_nothing_is_computed_twice(monkeypatch):
    from nemo_sortformer.inference import tune

    calls = []
    original = tune.speaker_probs
    monkeypatch.setattr(tune, "speaker_probs", lambda *args: calls.append(1) or original(*args))
    objective = Objective([[two_voices()]], 0.08)
    for onset in (0.4, 0.5, 0.5, 0.6):
        objective(InferenceConfig(onset=onset))
    assert (objective.calls, len(calls)) == (3, 1)
    objective(InferenceConfig(median_frames=3))
    assert len(calls) == 2


def test_lines_of_other_splits_are_left_out(tiny_model, labelled, tmp_path):
    lines = [
        json.loads(labelled(name, seconds, **keys).read_text())
        for name, seconds, keys in (("a", 5.0, {"split": "dev"}), ("b", 6.0, {"split": "test"}), ("c", 7.0, {}))
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def lengths(*splits):
        found = run_network(tiny_model, path, condition=EXACT, config=InferenceConfig(), splits=splits)
        return [round(one.duration) for one in found]

    assert (lengths(), lengths("dev"), lengths("dev", "test")) == ([5, 6, 7], [5, 7], [5, 6, 7])


def test_a_manifest_without_speech_is_refused(tiny_model, labelled, tmp_path):
    path = labelled("talk", 3.0)
    (tmp_path / "talk_0.rttm").write_text("")
    with pytest.raises(ValueError, match=r"talk\.jsonl.*no speech"):
        run_network(tiny_model, path, condition=EXACT, config=InferenceConfig())


def test_the_offset_moves_along_with_the_onset_and_no_setting_is_invented():
    config = InferenceConfig(onset=0.6, offset=0.5)
    assert (changed(config, "onset", 0.3).onset, changed(config, "onset", 0.3).offset) == (0.3, 0.2)
    assert changed(config, "offset", 0.7).offset == 0.6
    assert changed(config, "min_duration_on", 1) == InferenceConfig(onset=0.6, offset=0.5, min_duration_on=1.0)
    published = InferenceConfig(onset=0.64, offset=0.74)
    assert changed(published, "onset", 0.64) == changed(published, "median_frames", 1) == published
    assert get(changed(config, "clustering.sharpness", 7), "clustering.sharpness") == 7.0
    for setting in ("onsett", "clustering.treshold", "clusterings.threshold"):
        with pytest.raises(ConfigError, match=f"`{setting}`"):
            changed(config, setting, 0.5)


def test_worth_is_what_going_back_would_cost():
    assert Trial("onset", 0.5, 0.4, {0.4: 0.10, 0.5: 0.13}).worth == pytest.approx(0.03)


def test_every_setting_that_is_tried_exists_with_values_in_its_range():
    for setting, values in GRIDS.items():
        for value in values:
            assert get(changed(InferenceConfig(onset=1.0), setting, value), setting) == value


def test_the_chosen_settings_are_in_the_file(tiny_model, tmp_path):
    from nemo_sortformer.models.diarizer import SortformerDiarizer

    before = tiny_model.config.inference
    config = InferenceConfig(
        assignment="clustering", onset=0.55, offset=0.35, clustering=ClusteringConfig(threshold=0.61, min_frames=25)
    )
    try:
        save_with(tiny_model, config, tmp_path / "new" / "tuned.nemo")
    finally:
        tiny_model.config.inference = before
    restored = SortformerDiarizer.restore_from(str(tmp_path / "new" / "tuned.nemo"), map_location="cpu")
    assert restored.config.inference == config
