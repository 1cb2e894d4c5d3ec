# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labelling files and arrays: sorted answers, batches that change nothing, bad sequences that cost only themselves."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError
from nemo_sortformer.functional.arrival import arrival_frames
from nemo_sortformer.inference.label import LabelingError, collect_sequences, label_files, label_sequences
from nemo_sortformer.inference.labeling import label_segments
from nemo_sortformer.models.labeler import SortformerLabeler

ENCODER = {
    "_target_": "nemo_sortformer.modules.SortformerEncoder",
    "num_layers": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "num_attention_heads": 2,
    "conv_kernel": 5,
    "dropout": 0.0,
}


def make_model(**changes):
    """A random labeler of 6 numbers per frame whose slots are active about half of the time."""
    torch.manual_seed(0)
    slots = {} if "heads" in changes else {"max_num_of_classes": 3}
    model = SortformerLabeler(cfg=OmegaConf.create({"input_dim": 6, "encoder": ENCODER} | slots | changes))
    with torch.no_grad():
        for name, parameter in model.label_head.named_parameters():
            parameter.normal_() if name.endswith("weight") else parameter.zero_()
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def embeddings(frames, seed=0):
    return np.random.default_rng(seed).normal(size=(frames, 6)).astype(np.float32)


def test_the_answer_is_sorted_and_its_parts_agree(model):
    (one,) = label_sequences(model, embeddings(40))
    first = arrival_frames(torch.from_numpy(one.probs)[None])[0]
    assert (first.diff() >= 0).all()
    assert one.classes == tuple(f"class_{k}" for k in range(one.num_classes))
    assert one.num_classes == int((one.probs > 0.5).any(axis=0).sum()) > 1
    np.testing.assert_array_equal(one.activity, one.probs[:, : one.num_classes] > 0.5)
    assert (one.recording, one.duration, one.frame_seconds, one.kind) == ("array_0", 40.0, 1.0, "")
    with torch.no_grad():
        raw = model.eval()(embeddings=torch.from_numpy(embeddings(40))[None], lengths=torch.tensor([40])).probs[0]
    np.testing.assert_allclose(one.probs, raw[:, list(one.slots)], atol=1e-6)


def test_the_batch_size_changes_nothing_and_the_order_is_kept(model):
    given = [embeddings(n, seed=n) for n in (3, 40, 1, 17)]
    alone, together = (label_sequences(model, given, batch_size=size) for size in (1, 3))
    assert [len(one.probs) for one in alone] == [3, 40, 1, 17]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.probs, other.probs, atol=1e-5)
        assert one.segments == other.segments


def test_padded_arrays_are_cut_to_their_lengths(model):
    padded = np.full((2, 9, 6), np.nan, dtype=np.float32)
    padded[0, :4], padded[1] = embeddings(4), embeddings(9, seed=1)
    results = label_sequences(model, torch.from_numpy(padded), lengths=torch.tensor([4, 9]))
    expected = label_sequences(model, [embeddings(4), embeddings(9, seed=1)])
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(one.probs, other.probs, atol=1e-5)
    with pytest.raises(ValueError, match="`lengths` must be from 0 to 9, the frames of the array, but one is 10"):
        label_sequences(model, padded, lengths=[4, 10])
    with pytest.raises(ValueError, match="`lengths` must be given with one array"):
        label_sequences(model, padded[0], lengths=[4])
    assert len(collect_sequences(padded)) == 2


def test_files_folders_manifests_and_arrays_may_be_mixed(model, tmp_path):
    np.save(tmp_path / "a.npy", embeddings(5))
    np.savez(tmp_path / "b.npz", embeddings=embeddings(6))
    folder = tmp_path / "more"
    folder.mkdir()
    torch.save(torch.from_numpy(embeddings(7)), folder / "a.pt")
    (folder / "list.jsonl").write_text(json.dumps({"embeddings_filepath": "a.pt", "frame_seconds": 0.5}) + "\n")
    results = label_sequences(model, [tmp_path, embeddings(3), folder / "list.jsonl"])
    named = [(one.recording, one.duration) for one in results]
    assert named == [(f"{tmp_path.name}_a", 5.0), ("b", 6.0), ("array_0", 3.0), ("more_a", 3.5)]
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="has no embeddings"):
        label_sequences(model, folder / "empty")
    with pytest.raises(ValueError, match="is or holds a `dict`"):
        label_sequences(model, {})


def test_an_empty_sequence_has_an_empty_answer(model):
    one, two = label_sequences(model, [embeddings(0), embeddings(4)])
    assert (one.segments, one.num_classes, one.probs.shape, one.duration) == ((), 0, (0, 3), 0.0)
    assert one.activity.shape == (0, 0)
    assert len(two.probs) == 4
    assert one.to_rttm() == ""


def test_a_bad_sequence_costs_only_itself(model, tmp_path):
    nan = embeddings(8)
    nan[5, 2] = np.nan
    (tmp_path / "broken.npz").write_bytes(b"no")
    given = [embeddings(4), nan, tmp_path / "gone.npy", np.zeros((4, 7)), tmp_path / "broken.npz", np.zeros(6)]
    with pytest.raises(LabelingError, match="5 of 6 sequences could not be labeled") as caught:
        label_sequences(model, given, batch_size=3)
    assert [one.recording for one in caught.value.results] == ["array_0"]
    texts = [failure.message for failure in caught.value.failures]
    expected = ["frame 5", "there is no such file", "must be 6 wide", "is damaged", r"shape \(frames, dim\)"]
    for text, part in zip(texts, expected, strict=True):
        assert part.replace("\\", "") in text
    failures = []
    assert len(label_sequences(model, given, failures=failures)) == 1
    assert len(failures) == 5


def test_each_kind_of_label_has_its_own_answer():
    model = make_model(heads={"speaker": {"num_classes": 3}, "language": {"num_classes": 2}}, frame_seconds=0.1)
    results = label_sequences(model, [embeddings(30), embeddings(5)])
    assert [(one.recording, one.kind) for one in results] == [
        ("array_0", "speaker"),
        ("array_0", "language"),
        ("array_1", "speaker"),
        ("array_1", "language"),
    ]
    assert results[1].probs.shape == (30, 2)
    assert set(results[1].classes) <= {"language_0", "language_1"}
    assert results[1].duration == pytest.approx(3.0)


def test_settings_change_the_segments(model):
    (every,), (long,) = (
        label_sequences(model, embeddings(60), override_config=change)
        for change in (None, {"min_duration_on": 3.0, "median_frames": 3})
    )
    assert len(long.segments) < len(every.segments)
    assert all(segment.end - segment.start >= 3 for segment in long.segments)
    with pytest.raises(ConfigError, match="Did you mean `min_duration_on`"):
        label_sequences(model, embeddings(4), override_config={"min_duration": 3.0})
    with pytest.raises(ConfigError, match="needs a model with affinity embeddings"):
        label_sequences(model, embeddings(4), override_config={"assignment": "clustering"})
    with pytest.raises(ConfigError, match="`batch_size` must be at least 1"):
        label_sequences(model, embeddings(4), batch_size=0)


def test_embeddings_can_be_clustered():
    model = make_model(affinity={"dim": 4}, inference={"assignment": "clustering"})
    (one,) = label_sequences(model, embeddings(60))
    assert one.probs.shape[0] == 60
    assert one.num_classes >= 1


def test_label_files_takes_a_file_of_a_model(model, tmp_path):
    model.save_to(str(tmp_path / "model.nemo"))
    (one,) = label_files(embeddings(9), model=tmp_path / "model.nemo", device="cpu")
    (other,) = label_files(embeddings(9), model=model)
    np.testing.assert_allclose(one.probs, other.probs, atol=1e-6)
    with pytest.raises(ValueError, match="`model` must be a .nemo file, but .* is missing"):
        label_files(embeddings(9), model=tmp_path / "gone.nemo")


def test_frame_labels_as_segments():
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    assert [tuple(one) for one in label_segments(labels, frame_seconds=0.5, names=["a", "b"])] == [
        (0.0, 1.0, "a"),
        (0.5, 1.5, "b"),
        (2.0, 2.5, "a"),
    ]


def test_the_picture_shows_frame_labels_as_the_truth(model, tmp_path):
    (one,) = label_sequences(model, embeddings(40))
    figure = one.plot(tmp_path / "one.png", reference=(np.arange(40)[:, None] // 20 == np.arange(2)))
    assert (tmp_path / "one.png").stat().st_size > 5000
    texts = [text.get_text() for text in figure.texts]
    assert any("40 frames" in text for text in texts)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["truth  class 0", "truth  class 1"]
    (empty,) = label_sequences(model, embeddings(0))
    assert "no class is active" in [text.get_text() for text in empty.plot().axes[0].texts]
