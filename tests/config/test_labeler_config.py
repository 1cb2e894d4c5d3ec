# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the labeler: kinds of labels, ranges, contradictions."""

import pytest

from nemo_sortformer.config import ConfigError, EmbeddingDatasetConfig, LabelerConfig, from_cfg

ENCODER = {"_target_": "nemo_sortformer.modules.SortformerEncoder"}


def make(**changes):
    return from_cfg(LabelerConfig, {"input_dim": 8, "encoder": ENCODER, **changes}, path="model")


def test_a_single_kind_has_four_slots_and_no_name():
    assert {name: kind.num_classes for name, kind in make().kinds.items()} == {"": 4}
    assert make(max_num_of_classes=16).kinds[""].num_classes == 16


def test_kinds_keep_their_order_and_weights():
    kinds = make(heads={"speaker": {"num_classes": 3}, "language": {"num_classes": 2, "weight": 0.5}}).kinds
    assert [(name, kind.num_classes, kind.weight) for name, kind in kinds.items()] == [
        ("speaker", 3, 1.0),
        ("language", 2, 0.5),
    ]


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"input_dim": 0}, "`input_dim` must be at least 1, but is 0"),
        ({"frame_seconds": 0}, "`frame_seconds` must be above 0, but is 0"),
        ({"max_num_of_classes": 0}, "`max_num_of_classes` must be at least 1, but is 0"),
        ({"max_num_of_classes": 4, "heads": {"a": {"num_classes": 2}}}, "`max_num_of_classes` must be left out"),
        ({"heads": {"a b": {"num_classes": 2}}}, "`heads` must have names of letters"),
        ({"encoder": {}}, "`encoder` must say its class by `_target_`"),
        ({"inference": {"assignment": "clustering"}}, "needs the embeddings of `affinity`"),
        (
            {"inference": {"assignment": "clustering"}, "affinity": {}, "heads": {"a": {"num_classes": 2}}},
            "knows one kind of label",
        ),
        ({"max_num_of_speakers": 4}, "`model.max_num_of_speakers` is no key of LabelerConfig. Did you mean"),
        ({"train_ds": {"max_frames": 0}}, "`max_frames` must be at least 1 or null, but is 0"),
    ],
)
def test_wrong_settings_are_named(changes, match):
    with pytest.raises(ConfigError, match=match):
        make(**changes)


@pytest.mark.parametrize(
    "kind, match",
    [
        ({"num_classes": 0}, "In `model.heads.a`: `num_classes` must be at least 1"),
        ({"num_classes": 2, "weight": 0}, "Leave the kind out of `heads`"),
        ({"classes": 2}, "`model.heads.a.classes` is no key of LabelKindConfig. Did you mean `num_classes`"),
        ({}, "`model.heads.a.num_classes` of LabelKindConfig has no default"),
    ],
)
def test_wrong_kinds_are_named(kind, match):
    with pytest.raises(ConfigError, match=match):
        _ = make(heads={"a": kind}).kinds


@pytest.mark.parametrize(
    "name, value", [("batch_size", 0), ("num_workers", -1), ("frame_seconds", 0.0), ("threshold", 0.0),
                    ("threshold", 1.5), ("max_failed_share", 2.0)]
)  # fmt: skip
def test_numbers_of_a_data_source_have_ranges(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` must be"):
        EmbeddingDatasetConfig(**{name: value})
