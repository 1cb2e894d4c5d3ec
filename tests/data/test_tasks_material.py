# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the single tasks are made of: the right images, changes, pieces and voices at the right places."""

import numpy as np
import pytest

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.tasks import anomalies, genres, languages
from nemo_sortformer.data.tasks.audio_frames import excerpt, mel_bands, mix_turns, spectral_frames
from nemo_sortformer.data.tasks.scores import reference_answers, score_answers
from nemo_sortformer.data.tasks.sequences import SequenceConfig, Turn

SHORT = SequenceConfig(num_frames=40, class_counts=(1, 2, 3), segment_frames=(3, 8))
RATE = 16_000


def tone(pitch, seconds=1.0):
    return np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def test_faces_show_scans_of_the_named_digit_and_none_in_the_void():
    datasets = pytest.importorskip("sklearn.datasets")
    from nemo_sortformer.data.tasks.faces import FaceTask

    digits = datasets.load_digits()
    task = FaceTask(SHORT, noise=0.0)
    assert {k: len(v) for k, v in task.classes.items()} == {"train": 6, "seen": 6, "unseen": 4}
    shown = {split: set() for split in ("train", "seen")}
    for split in ("train", "seen", "unseen"):
        for number in range(6):
            made = task.make(split, number)
            for frame, active in zip(made.embeddings, made.labels, strict=True):
                names = [int(made.classes[k]) for k in np.flatnonzero(active)]
                found = np.flatnonzero((np.abs(digits.data / 16 - frame) < 1e-6).all(axis=1))
                if len(names) == 1:
                    assert digits.target[found[0]] == names[0]
                    if split in shown:
                        shown[split].add(int(found[0]))
                elif len(names) == 0:
                    assert len(found) == 0
    assert not shown["train"] & shown["seen"], "a scan is in both"


def test_an_anomaly_is_where_the_labels_say_and_nowhere_else(monkeypatch):
    task = anomalies.AnomalyTask(SHORT)
    turns = [Turn(0, 5, 10), Turn(1, 20, 26)]
    for names in (("level +5", "stuck"), ("drop-outs", "spikes of 5 every 7")):
        changed = task.series(names, turns, np.random.default_rng(3))
        normal = task.series(names, [], np.random.default_rng(3))
        differs = (np.abs(changed - normal) > 1e-9).reshape(40, -1).any(axis=1)
        assert np.flatnonzero(differs).tolist() == [*range(5, 10), *range(20, 26)]
    assert not set(anomalies.TRAIN_KINDS) & set(anomalies.UNSEEN_KINDS)


@pytest.mark.parametrize("kind", list(anomalies.KINDS))
def test_every_kind_of_anomaly_changes_a_series_much(kind):
    rng = np.random.default_rng(0)
    x = anomalies.normal_series(640, rng)
    changed = anomalies.KINDS[kind](x.copy(), 1.0, rng)
    assert changed.shape == x.shape
    assert np.isfinite(changed).all()
    assert np.sqrt(np.mean((changed - x) ** 2)) > 0.3


def test_frame_statistics_by_hand():
    ramp = np.concatenate([np.arange(32.0), np.full(32, 2.0)])
    found = anomalies.frame_statistics(ramp)
    assert found.shape == (2, 35)
    assert found[:, 0].tolist() == [15.5, 2.0]
    assert found[1, 7] == 2  # all steps are zero
    assert found[0, 4:6].tolist() == [31, 0]


def test_a_genre_is_a_function_of_its_name_and_its_pieces_differ():
    first, again, other = genres.Genre("a"), genres.Genre("a"), genres.Genre("b")
    assert first.step_seconds == again.step_seconds != other.step_seconds
    pieces = [genre.play(3.0, np.random.default_rng(seed)) for genre, seed in ((first, 0), (again, 0), (first, 1))]
    np.testing.assert_array_equal(pieces[0], pieces[1])
    assert not np.array_equal(pieces[0], pieces[2])
    assert [len(piece) for piece in pieces] == [3 * RATE] * 3
    assert np.sqrt(np.mean(pieces[0] ** 2)) == pytest.approx(0.1, rel=0.01)


def test_sounds_are_mixed_at_their_turns():
    turns = [Turn(0, 1, 3), Turn(1, 2, 4)]
    pieces = [tone(300), tone(3000)]
    audio = mix_turns(pieces, turns, 6, 0.5, np.random.default_rng(0))
    assert audio.shape == (3 * RATE,)
    loud = np.sqrt(np.square(audio).reshape(6, -1).mean(axis=1)) > 0.1
    assert loud.tolist() == [False, True, True, True, False, False]
    bands = mel_bands(audio)
    assert bands.shape == (300, 40)
    assert bands[75].argmax() < 10 < 25 < bands[175].argmax()
    assert spectral_frames(audio, 0.5).shape == (6, 84)


def test_an_excerpt_has_the_length_and_level_asked_for():
    rng = np.random.default_rng(0)
    clips = [tone(300, 0.4), tone(500, 0.3)]
    for seconds in (0.1, 0.35, 2.0):
        x = excerpt(clips, round(seconds * RATE), rng)
        assert len(x) == round(seconds * RATE)
        assert np.sqrt(np.mean(x**2)) == pytest.approx(0.1, rel=0.1)
        assert abs(x[0]) < 0.01 > abs(x[-1])


def test_languages_and_timbres_of_training_and_test_are_disjoint():
    assert not set(languages.TRAIN_LANGUAGES) & set(languages.UNSEEN_LANGUAGES)
    assert not set(languages.TRAIN_TIMBRES) & set(languages.TEST_TIMBRES)
    assert {"ar", "en-us"} <= set(languages.UNSEEN_LANGUAGES)  # those of the recorded test
    with pytest.raises(ConfigError, match='`voices` must be "one" or "many"'):
        languages.LanguageTask(SHORT, voices="two")


@pytest.mark.parametrize("voices", ["one", "many"])
def test_a_turn_has_a_clip_of_its_language(voices, monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the extra `tasks` is not installed")
    used = []
    monkeypatch.setattr(
        languages, "excerpt", lambda clips, count, rng: used.append(clips) or excerpt(clips, count, rng)
    )
    monkeypatch.setattr(languages, "TRAIN_LANGUAGES", ("de", "es"))
    monkeypatch.setattr(languages, "UNSEEN_LANGUAGES", ("ja", "tr"))
    task = languages.LanguageTask(
        SequenceConfig(num_frames=40, class_counts=(2,), segment_frames=(3, 8)), voices=voices
    )
    turns = [Turn(0, 1, 4), Turn(1, 6, 9), Turn(0, 11, 14), Turn(1, 16, 19), Turn(0, 21, 24)]
    task.render(("ja", "tr"), turns, "unseen", np.random.default_rng(1))
    clips = task.clips("unseen")
    owners = [(name, voice) for one in used for name in clips for voice in clips[name] if clips[name][voice] is one]
    assert [name for name, _ in owners] == ["ja", "tr", "ja", "tr", "ja"]
    assert (len({voice for _, voice in owners}) == 1) == (voices == "one")


def test_the_recorded_languages_are_those_of_test_speakers(speech_data):
    clips = languages.recorded_clips(speech_data / "pool" / "manifest.jsonl")
    assert set(clips) == {"ar", "en"}
    assert all(len(voices) >= 3 for voices in clips.values())


def test_recorded_speakers_of_test_and_training_differ(speech_data):
    from nemo_sortformer.data.tasks.speakers import SpeakerTask

    sizes = []
    task = SpeakerTask(
        SHORT,
        manifest=speech_data / "pool" / "manifest.jsonl",
        embed=lambda x: sizes.append(len(x)) or np.ones((len(x) // 1280, 4)),
    )
    assert len(task.classes["train"]) > 200 > 25 < len(task.classes["unseen"])
    made = task.make("unseen", 0)
    assert made.embeddings.shape == (40, 12)  # the given ones, and eight mel bands
    assert sizes == [round(40 * 0.24 * RATE)]
    active = made.labels.any(axis=1)
    assert made.embeddings[active, 4:].mean() > made.embeddings[~active, 4:].mean() + 2


def test_scores_by_hand():
    truth = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]], dtype=np.float32)
    right = score_answers([truth], [truth])
    assert right == (0, 0, 1, 1)
    swapped = score_answers([truth[:, ::-1]], [truth])
    assert (swapped.error, swapped.error_as_is) == (0, pytest.approx(4 / 6))  # the frame with both is right either way
    nothing = score_answers([np.zeros((6, 0), dtype=np.float32)], [truth])
    assert nothing == (1, 1, 0, pytest.approx(2 / 7))
    extra = score_answers([np.concatenate([truth, np.ones((6, 1), np.float32)], axis=1)], [truth])
    assert extra.error == pytest.approx(6 / 6)
    assert extra.count_right == 0
    with pytest.raises(ValueError, match="must have the frames of its truth, 6, but has 5"):
        score_answers([truth[:5]], [truth])


def test_clustering_that_is_told_count_and_void_finds_clear_classes():
    pytest.importorskip("sklearn")
    truth = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)[:, :2]  # the last five frames are void
    frames = truth @ np.array([[3, 0, 0], [0, 3, 0]], dtype=np.float32) + 0.1 * np.random.default_rng(0).random(
        (15, 3)
    )
    for method in ("k-means", "linkage"):
        assert score_answers(reference_answers(method, [frames], [truth]), [truth]) == (0, 0, 1, 1)
    one = score_answers(reference_answers("one class", [frames], [truth]), [truth])
    assert one.error == pytest.approx(1.0)  # five right, five confused, five false
    assert score_answers(reference_answers("chance", [frames], [truth]), [truth]).error > 0.1
    with pytest.raises(ValueError, match="`method` must be one of"):
        reference_answers("magic", [frames], [truth])
