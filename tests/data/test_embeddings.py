# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sequences of embeddings: files of all kinds, manifests, crops, batches, and all that can be wrong with them."""

import json

import numpy as np
import pytest
import torch

from nemo_sortformer.config import EmbeddingDatasetConfig
from nemo_sortformer.data.embedding_files import EmbeddingEntry, EmbeddingError, open_array, read_embedding_manifest
from nemo_sortformer.data.embeddings import (
    ArrayDataset,
    EmbeddingDataset,
    EmbeddingItem,
    build_embedding_loader,
    collate_embeddings,
)
from nemo_sortformer.data.failures import FailedRecordingWarning, TooManyFailuresError
from nemo_sortformer.data.manifest import ManifestError


def sequence(frames=20, dim=3, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(frames, dim)).astype(np.float32), (rng.random((frames, classes)) > 0.7).astype(np.uint8)


def write(folder, lines, name="data.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def manifest(tmp_path):
    """Four sequences, each stored in another way."""
    x, y = sequence()
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "a_labels.npy", y)
    np.savez(tmp_path / "b.npz", embeddings=x, labels=y)
    torch.save({"embeddings": torch.from_numpy(x).bfloat16(), "labels": torch.from_numpy(y)}, tmp_path / "c.pt")
    np.save(tmp_path / "d.npy", x.astype(np.float16))
    spans = "".join(f"SPEAKER d 1 {start} 1.0 <NA> <NA> {who} <NA> <NA>\n" for start, who in [(1.0, "b"), (0.5, "a")])
    (tmp_path / "d.rttm").write_text(spans)
    lines = [
        {"embeddings_filepath": "a.npy", "labels_filepath": "a_labels.npy"},
        {"embeddings_filepath": "b.npz"},
        {"embeddings_filepath": "c.pt", "num_frames": 20, "uniq_id": "third"},
        {"embeddings_filepath": "d.npy", "rttm_filepath": "d.rttm", "frame_seconds": 0.25},
    ]
    return write(tmp_path, lines)


def test_every_way_to_store_a_sequence_is_read_alike(manifest):
    items = list(EmbeddingDataset(manifest, num_classes=3))
    x, _ = sequence()
    for item in items:
        np.testing.assert_allclose(item.embeddings, x, atol=0.02)
        assert item.embeddings.dtype == item.targets.dtype == torch.float32
    assert torch.equal(items[0].targets, items[1].targets)
    assert torch.equal(items[0].targets, items[2].targets)
    assert items[3].targets[:, :2].nonzero().tolist() == [
        [2, 0],
        [3, 0],
        [4, 0],
        [4, 1],
        [5, 0],
        [5, 1],
        [6, 1],
        [7, 1],
    ]
    assert [item.name for item in items] == ["a", "b", "third", "d"]


def test_a_numpy_file_is_mapped_not_read(manifest):
    assert isinstance(read_embedding_manifest(manifest)[0].open(), np.memmap)


def test_a_single_array_needs_no_name_and_several_do(tmp_path):
    x, y = sequence()
    np.savez(tmp_path / "one.npz", anything=x)
    np.savez(tmp_path / "two.npz", left=x, right=y)
    np.testing.assert_array_equal(open_array(tmp_path / "one.npz", "embeddings"), x)
    assert open_array(tmp_path / "one.npz", "labels", optional=True) is None
    with pytest.raises(EmbeddingError, match="two.npz: must hold an array `embeddings`, but holds `left`, `right`"):
        open_array(tmp_path / "two.npz", "embeddings")
    torch.save(torch.from_numpy(x), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(open_array(tmp_path / "old.pt", "embeddings"), x)


def test_training_crops_are_a_function_of_seed_epoch_and_index(tmp_path):
    x = np.arange(100, dtype=np.float32)[:, None].repeat(2, axis=1)
    y = (np.arange(100)[:, None] // 10 == np.arange(10)).astype(np.float32)
    options = {"num_classes": 3, "max_frames": 20, "training": True}
    data = ArrayDataset([(x, y)], seed=1, **options)
    assert len(data) == 5
    first = [item.start for item in data]
    assert first == [item.start for item in ArrayDataset([(x, y)], seed=1, **options)]
    data.set_epoch(1)
    assert [item.start for item in data] != first
    for item in data:
        np.testing.assert_array_equal(item.embeddings[:, 0], x[item.start : item.start + 20, 0])
        assert item.targets.sum() == 20  # the whole crop is labelled, by classes in order of arrival
        assert item.targets.argmax(dim=0)[: int(item.targets.any(dim=0).sum())].diff().ge(0).all()


def test_evaluation_windows_cover_a_sequence_once():
    x, y = sequence(frames=71)
    data = ArrayDataset([(x, y)], num_classes=2, max_frames=10)
    assert [len(item.embeddings) for item in data] == [10, 10, 10, 10, 10, 10, 11]
    np.testing.assert_array_equal(torch.cat([item.embeddings for item in data]), x)


def test_a_crop_with_too_many_classes_is_drawn_anew():
    y = np.zeros((100, 5), dtype=np.float32)
    y[np.arange(5), np.arange(5)] = 1  # all five at the start
    x = np.zeros((100, 2), dtype=np.float32)
    data = ArrayDataset([(x, y)], num_classes=2, max_frames=50, training=True, max_failed_share=0.0)
    assert all(item.targets.sum() <= 2 for item in data)


def test_several_kinds_of_labels_stand_side_by_side(tmp_path):
    x, y = sequence(classes=3)
    np.savez(tmp_path / "b.npz", embeddings=x, labels_speaker=y, labels_language=y[:, :1])
    np.save(tmp_path / "s.npy", y)
    lines = [
        {"embeddings_filepath": "b.npz"},
        {"embeddings_filepath": "b.npz", "labels_filepath": {"speaker": "s.npy"}},
    ]
    kinds = {"speaker": 3, "language": 2}
    first, second = EmbeddingDataset(write(tmp_path, lines), num_classes=kinds)
    assert first.targets.shape == (20, 5)
    assert torch.equal(first.targets, second.targets)
    (third,) = ArrayDataset([(x, {"speaker": y, "language": y[:, :1]})], num_classes=kinds)
    assert torch.equal(third.targets, first.targets)


def test_items_of_any_length_make_a_batch():
    items = [EmbeddingItem(torch.ones(n, 2), torch.ones(n, 3)) for n in (1, 4, 2)]
    batch = collate_embeddings(items)
    assert batch.lengths.tolist() == batch.target_lengths.tolist() == [1, 4, 2]
    assert batch.embeddings.sum() == 14
    assert batch.targets.sum() == 21
    with pytest.raises(ValueError, match="one item or more"):
        collate_embeddings([])
    with pytest.raises(ValueError, match="one width and number of slots"):
        collate_embeddings([items[0], EmbeddingItem(torch.ones(1, 3), torch.ones(1, 3))])


def test_the_loader_shuffles_in_training_only_and_shares_among_ranks(manifest):
    cfg = EmbeddingDatasetConfig(manifest_filepath=str(manifest), batch_size=1)
    loaders = [build_embedding_loader(cfg, num_classes=3, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(loader) for loader in loaders] == [2, 2]
    trained = build_embedding_loader(cfg, num_classes=3, training=True)
    assert trained.sampler.shuffle
    assert not loaders[0].sampler.shuffle


def bad_files(folder):
    """Lines of a manifest, each wrong in another way, and what is said of it."""
    x, y = sequence()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "short.npy", y[:-1])
    np.save(folder / "empty.npy", x[:0])
    np.save(folder / "no_labels.npy", y[:0])
    np.save(folder / "wide.npy", np.zeros((20, 7)))
    np.save(folder / "flat.npy", np.zeros(20))
    np.save(folder / "words.npy", np.array([["a"]]))
    np.save(folder / "many.npy", np.eye(20))
    nan = x.copy()
    nan[7, 1] = np.nan
    np.save(folder / "nan.npy", nan)
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "broken.npz").write_bytes(b"no archive")
    (folder / "broken.pt").write_bytes(b"no tensor")
    (folder / "x.txt").write_text("1 2 3")
    torch.save({"embeddings": "words"}, folder / "words.pt")
    return [
        ({"embeddings_filepath": "gone.npy"}, "gone.npy: there is no such file"),
        ({"embeddings_filepath": "."}, "must end in one of .npy"),
        ({"embeddings_filepath": "x.txt"}, "must end in one of .npy, .npz, .pt"),
        ({"embeddings_filepath": "broken.npz"}, "is no .npz file of numbers, or is damaged"),
        ({"embeddings_filepath": "broken.pt"}, "is no .pt file of numbers, or is damaged"),
        ({"embeddings_filepath": "objects.npy"}, "what is in it is no plain array"),
        ({"embeddings_filepath": "words.pt"}, "must hold a tensor or a dict of tensors, but holds a str"),
        ({"embeddings_filepath": "words.npy"}, "embeddings must be numbers"),
        ({"embeddings_filepath": "flat.npy"}, r"must have the shape \(frames, dim\), but have \(20,\)"),
        ({"embeddings_filepath": "empty.npy", "labels_filepath": "no_labels.npy"}, "has no frames"),
        ({"embeddings_filepath": "wide.npy", "labels_filepath": "y.npy"}, "must be 3 wide .* but are 7 wide"),
        ({"embeddings_filepath": "nan.npy", "labels_filepath": "y.npy"}, "1 of 20 frames .* the first is frame 7"),
        ({"embeddings_filepath": "x.npy"}, "has no labels, so there is nothing to learn"),
        ({"embeddings_filepath": "x.npy", "labels_filepath": "short.npy"}, "equally many frames, but have 19 and 20"),
        ({"embeddings_filepath": "x.npy", "labels_filepath": "many.npy"}, "20 classes are active within 20 frames"),
        ({"embeddings_filepath": "x.npy", "labels_filepath": "gone.npy"}, "gone.npy: there is no such file"),
    ]


def test_what_is_wrong_with_a_sequence_is_said_with_its_line(tmp_path):
    cases = bad_files(tmp_path)
    path = write(tmp_path, [line for line, _ in cases])
    data = EmbeddingDataset(path, num_classes=3, input_dim=3)
    for number, (line, text) in enumerate(cases, start=1):
        with pytest.raises((EmbeddingError, ManifestError), match=text) as caught:
            _ = data[number - 1]
        assert str(caught.value).startswith(f"{path}:{number}: "), line


def test_sequences_without_classes_and_of_one_frame_are_good(tmp_path):
    x, y = sequence(frames=1)
    data = ArrayDataset([(x, y * 0), (x, np.array([0])), (np.zeros((5, 3)), np.full(5, -1))], num_classes=2)
    assert [float(item.targets.sum()) for item in data] == [0.0, 1.0, 0.0]


def test_unusable_sequences_are_counted_and_replaced(tmp_path):
    x, y = sequence()
    sequences = [(x, y)] * 9 + [(x * np.nan, y)]
    data = ArrayDataset(sequences, num_classes=2, max_failed_share=0.1)
    with pytest.warns(FailedRecordingWarning, match="`array_9`.*is left out .1 failed so far.*frame 0"):
        assert torch.equal(data[9].embeddings, data[0].embeddings)
    assert data.failures.failed == ["array_9"]
    strict = ArrayDataset(sequences, num_classes=2, max_failed_share=0.05)
    with pytest.raises(TooManyFailuresError, match="1 of 10 sequences failed.*Repair them"):
        _ = strict[9]


@pytest.mark.parametrize(
    "line, match",
    [
        ({"audio_filepath": "a.wav"}, ":1: `embeddings_filepath` is missing; the keys are `audio_filepath`"),
        ("a.npy", ":1: a line must be a JSON object, but is a str"),
        ({"embeddings_filepath": 3}, ":1: `embeddings_filepath` must be a path in quotes, but is 3"),
        ({"embeddings_filepath": "a.npy", "frame_seconds": 0}, ":1: `frame_seconds` must be a number above 0"),
        ({"embeddings_filepath": "a.npy", "num_frames": 2.5}, ":1: `num_frames` must be a whole number"),
        ({"embeddings_filepath": "a.npy", "labels_filepath": "b.npy", "rttm_filepath": "c.rttm"}, ":1: .*Keep one"),
    ],
)
def test_a_bad_line_of_a_manifest_is_named(tmp_path, line, match):
    with pytest.raises(ManifestError, match=match):
        read_embedding_manifest(write(tmp_path, [{"embeddings_filepath": "a.npy"}, line][1:]))


def test_a_manifest_without_lines_and_a_data_set_without_sequences_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="has no entries"):
        read_embedding_manifest(write(tmp_path, []))
    with pytest.raises(ManifestError, match="one sequence or more"):
        ArrayDataset([], num_classes=2)


def test_entries_in_memory_may_be_tensors():
    x, _ = sequence()
    entry = EmbeddingEntry(name="one", array=torch.from_numpy(x).bfloat16())
    assert entry.open().dtype == np.float32
