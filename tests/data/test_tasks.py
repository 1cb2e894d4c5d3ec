# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The data of the tasks: classes kept apart, labels that say what was rendered, void, overlap, the same each time."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.config import ConfigError, from_cfg
from nemo_sortformer.data.tasks.build import TASKS, TaskConfig, build_task
from nemo_sortformer.data.tasks.folder import FrameSpace, random_rotation, read_split, write_task
from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig, plan_turns, turns_to_labels

SHORT = SequenceConfig(num_frames=40, class_counts=(1, 2, 3), segment_frames=(3, 8))


class NumberedTask(LabelTask):
    """Frames that say which classes are active: bit k of the only feature is class k."""

    def render(self, classes, turns, split, rng):
        frames = np.zeros((self.sequences.num_frames, 2))
        for column, start, end in turns:
            frames[start:end, 0] += 2 ** int(classes[column])
        return frames + 0.01 * rng.standard_normal(frames.shape)


def numbered(**changes):
    classes = {"train": "0123", "unseen": "4567"} | changes.pop("classes", {})
    return NumberedTask(classes, changes.pop("sequences", SHORT), changes.pop("seed", 0))


@given(seed=st.integers(0, 10_000), num_classes=st.integers(1, 4), overlap=st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=60)
def test_a_plan_is_as_promised(seed, num_classes, overlap):
    config = SequenceConfig(num_frames=60, segment_frames=(3, 9), overlap_probability=overlap)
    turns = plan_turns(config, num_classes, np.random.default_rng(seed))
    labels = turns_to_labels(turns, 60, num_classes)
    assert labels.sum(axis=1).max() <= 2
    assert (labels.sum(axis=0) >= 3).all()
    assert (labels.sum(axis=1) == 0).any()
    assert labels.sum() == sum(turn.end - turn.start for turn in turns), "a class overlaps itself"
    assert all(turn.end - turn.start <= 9 for turn in turns)
    assert all(turn.end - turn.start >= 3 or turn.end == 60 for turn in turns)
    if overlap == 0 or num_classes == 1:
        assert labels.sum(axis=1).max() == 1


def test_overlap_and_void_have_their_shares():
    def shares(**changes):
        config = replace(SequenceConfig(num_frames=200, class_counts=(3,)), **changes)
        plans = [turns_to_labels(plan_turns(config, 3, np.random.default_rng(k)), 200, 3) for k in range(30)]
        active = np.concatenate(plans).sum(axis=1)
        return (active > 1).mean(), (active == 0).mean()

    assert 0.05 < shares()[0] < 0.2
    assert 0.05 < shares()[1] < 0.25
    assert shares(overlap_probability=0.8)[0] > 2 * shares()[0]
    assert shares(void_probability=0.9)[1] > 1.5 * shares()[1]


def test_labels_say_what_was_rendered():
    task = numbered()
    for split in ("train", "seen", "unseen"):
        for number in range(10):
            made = task.make(split, number)
            assert set(made.classes) <= set(task.classes[split])
            again = sum(2 ** int(name) * made.labels[:, k] for k, name in enumerate(made.classes))
            np.testing.assert_array_equal(np.round(made.embeddings[:, 0]), again)
    assert {len(task.make("train", number).classes) for number in range(30)} == {1, 2, 3}


def test_sequences_depend_on_seed_split_and_number_only():
    first, other = numbered(), numbered(seed=1)
    made = first.make("train", 3)
    first.make("unseen", 0)
    again = numbered().make("train", 3)
    np.testing.assert_array_equal(made.embeddings, again.embeddings)
    np.testing.assert_array_equal(made.labels, again.labels)
    for different in (first.make("train", 4), first.make("seen", 3), other.make("train", 3)):
        assert not np.array_equal(made.labels, different.labels)


def test_a_class_cannot_be_both_trained_on_and_unseen():
    with pytest.raises(ConfigError, match="Classes of `unseen` must not be training classes, but 3 are"):
        numbered(classes={"unseen": "3456"})
    with pytest.raises(ConfigError, match="Classes of `recorded` must not be training classes, but 0 are"):
        numbered(classes={"recorded": "0"})
    with pytest.raises(ConfigError, match="`class_counts` must be at most 2"):
        numbered(classes={"unseen": "45"})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"class_counts": []}, "`class_counts` must be"),
        ({"class_counts": [0]}, "`class_counts` must be"),
        ({"segment_frames": [5, 4]}, "`segment_frames` must be two numbers"),
        ({"void_probability": 1.5}, "`void_probability` must be in"),
        ({"num_frames": 20}, "`num_frames` must be 64 or more"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_cfg(TaskConfig, {"name": "faces", "sequences": settings})


def test_an_unknown_task_and_empty_splits_are_named():
    with pytest.raises(
        ConfigError, match="`name` must be one of speakers, languages, genres, faces, anomalies, voice_languages"
    ):
        TaskConfig(name="smells")
    with pytest.raises(ConfigError, match="`counts.unseen` must be 1 or more"):
        TaskConfig(name="faces", counts={"train": 1, "seen": 1})


@pytest.mark.parametrize(
    "name, options",
    [
        ("faces", {}),
        ("anomalies", {}),
        ("genres", {"num_train": 4, "num_unseen": 4}),
        ("speakers", {"num_synthetic": 8}),
    ],
)
def test_each_task_keeps_its_promises(name, options):
    pytest.importorskip("sklearn")
    if name == "speakers":
        pytest.importorskip("espeakng_loader", reason="the extra `tasks` is not installed")
    config = TaskConfig(name=name, sequences=SHORT, options=options)
    assert name in TASKS
    task, again = build_task(config), build_task(config)
    assert not set(task.classes["train"]) & set(task.classes["unseen"])
    made = {split: [task.make(split, number) for number in range(4)] for split in ("train", "seen", "unseen")}
    for split, sequences in made.items():
        for one in sequences:
            assert one.embeddings.shape == (40, sequences[0].embeddings.shape[1])
            assert one.embeddings.dtype == np.float32
            assert np.isfinite(one.embeddings).all()
            assert set(one.classes) <= set(task.classes[split])
        labels = np.concatenate([one.labels.sum(axis=1) for one in sequences])
        assert (labels == 0).any()
        assert (labels == 2).any()
    np.testing.assert_array_equal(again.make("unseen", 2).embeddings, made["unseen"][2].embeddings)


def test_the_frames_go_to_one_space_and_a_folder_that_is_there_is_kept(tmp_path):
    config = TaskConfig(
        name="anomalies", counts={"train": 6, "seen": 2, "unseen": 3}, dim=5, rotations=2, sequences=SHORT
    )
    task, calls = build_task(config), []
    paths = write_task(task, tmp_path, config, advance=lambda: calls.append(1))
    assert list(paths) == ["train", "seen", "unseen"]
    assert len(calls) == 11
    read = read_split(paths["unseen"])
    assert [frames.shape for frames in read.embeddings] == [(40, 5)] * 3
    assert read.classes[1] == task.make("unseen", 1).classes
    np.testing.assert_array_equal(read.labels[""][1], task.make("unseen", 1).labels)
    train = read_split(paths["train"])
    assert len(train.embeddings) == 12
    products = [frames @ frames.T for frames in train.embeddings]
    np.testing.assert_allclose(products[0], products[1], atol=1e-3)  # turned, not stretched
    np.testing.assert_array_equal(train.embeddings[0][:, 0], train.embeddings[1][:, 0])  # void can be told as before
    assert not np.allclose(train.embeddings[0], train.embeddings[1], atol=0.1)
    variance = np.square(np.concatenate(train.embeddings)).mean()  # a rotation moves what is left of the mean
    assert variance == pytest.approx(1, abs=0.05)

    write_task(task, tmp_path, config, advance=lambda: calls.append(1))
    assert len(calls) == 11, "it was there already"
    write_task(
        task, tmp_path, replace(config, counts={"train": 4, "seen": 2, "unseen": 2}), advance=lambda: calls.append(1)
    )
    assert len(calls) == 19, "other settings make it anew"
    assert len(read_split(paths["unseen"]).labels[""]) == 2
    assert len(list((tmp_path / "train").iterdir())) == 8, "files of the old ones are gone"
    assert json.loads((tmp_path / "settings.json").read_text())["counts"]["train"] == 4


def test_a_space_has_the_void_first_and_then_the_directions_of_largest_spread():
    rng = np.random.default_rng(0)
    active = rng.random(800) < 0.6
    hidden = np.column_stack([3 * active, 3 * rng.standard_normal(800), rng.standard_normal(800)])
    frames = (hidden @ rng.standard_normal((3, 6)) + 0.05 * rng.standard_normal((800, 6)) + 5).astype(np.float32)
    space = FrameSpace.fit(frames, active, 3)
    found = space.project(frames)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    assert found[active, 0].min() > found[~active, 0].max()
    assert found[:, 0].std() == pytest.approx(1, rel=0.01)
    assert found[:, 1:].var(axis=0).mean() == pytest.approx(1, rel=0.01)
    assert found[:, 1].var() > 2 * found[:, 2].var()
    back, *_ = np.linalg.lstsq(found, frames - frames.mean(axis=0), rcond=None)
    np.testing.assert_allclose(found @ back, frames - frames.mean(axis=0), atol=0.3)
    turn = random_rotation(4, rng)
    np.testing.assert_allclose(turn @ turn.T, np.eye(4), atol=1e-6)
    assert turn[0].tolist() == turn[:, 0].tolist() == [1, 0, 0, 0]
    assert not np.allclose(turn[1:, 1:], np.eye(3), atol=0.1)
