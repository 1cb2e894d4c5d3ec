# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Manifests that are called `manifest.jsonl` get loaders, and every loader a name of its own."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.shared.loader_names import loader_names


@pytest.mark.parametrize(
    "paths, names",
    [
        (["/a/dev/manifest.jsonl"], ["dev_"]),
        (["/a/dev/dataset.json"], ["dev_"]),
        (["/a/my-dev set/manifest_.json"], ["my_dev_set_"]),
        (["/a/b/dev.jsonl", "/a/b/test-clean.jsonl"], ["dev_", "test_clean_"]),
        (["/a/b/dev_manifest.jsonl"], ["dev_"]),
        (["/a/one/manifest.jsonl", "/a/two/manifest.jsonl", "/a/three.json"], ["one_", "two_", "three_"]),
        (["/a/x/dev/manifest.jsonl", "/a/y/dev/manifest.jsonl"], ["x_dev_", "y_dev_"]),
        (["/a/x/dev.jsonl", "/a/y/dev.jsonl"], ["x_dev_", "y_dev_"]),
        (["/a/dev/manifest.jsonl", "/b/dev.jsonl"], ["a_dev_", "b_dev_"]),
        (["/a/dev.jsonl", "/a/dev.jsonl"], ["a_dev_", "a_dev_2_"]),
        (["/manifest.jsonl"], ["data_"]),
        (["/a/cuts/manifest.jsonl.gz"], ["cuts_"]),
        ([], []),
    ],
)
def test_names_by_hand(paths, names):
    assert loader_names(paths) == names


def test_a_relative_path_is_named_by_the_folder_it_stands_in(tmp_path, monkeypatch):
    (tmp_path / "calls").mkdir()
    monkeypatch.chdir(tmp_path / "calls")
    assert loader_names(["manifest.jsonl"]) == ["calls_"]


def test_where_nemo_has_names_they_are_the_same():
    from nemo.utils.model_utils import parse_dataset_as_name

    for name in ("dev", "test-clean", "dev_manifest", "an4_val_manifest", "dataset_b"):
        assert loader_names([f"/a/b/{name}.json"])[0] == parse_dataset_as_name(name).lstrip("_")


@pytest.fixture
def folders(tone_manifest, tmp_path):
    """Give two folders with a `manifest.jsonl` in each."""
    paths = []
    for folder, seconds in (("first", [2.0, 2.5]), ("second", [3.0])):
        made = tone_manifest(seconds, name=folder)
        (tmp_path / folder).mkdir()
        paths.append(shutil.move(made, tmp_path / folder / "manifest.jsonl"))
    return [str(path) for path in paths]


def make_trainer():
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1)


@pytest.mark.parametrize("name", ["manifest.jsonl", "dataset.json"])
@pytest.mark.parametrize("stage", ["validation", "test"])
def test_a_single_manifest_of_that_name_is_taken(our_cfg, folders, stage, name):
    path = Path(folders[0]).with_name(name)
    Path(folders[0]).rename(path)
    cfg = our_cfg(**{f"{stage}_ds": {"manifest_filepath": str(path), "batch_size": 2}})
    trainer = make_trainer()
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    assert getattr(model, f"_{stage}_names") == ["first_"]
    run = trainer.validate if stage == "validation" else trainer.test
    values = run(model, verbose=False)[0]
    assert f"{stage[:3] if stage == 'validation' else stage}_loss" in values


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_several_are_logged_by_folder_and_the_settings_stay_as_given(our_cfg, folders, stage, tmp_path):
    prefix = {"validation": "val", "test": "test"}[stage]
    given = {"manifest_filepath": folders, "batch_size": 2}
    trainer = make_trainer()
    model = SortformerDiarizer(cfg=our_cfg(), trainer=trainer)
    getattr(model, f"setup_multiple_{stage}_data")(OmegaConf.create(given))
    (trainer.validate if stage == "validation" else trainer.test)(model, verbose=False)
    logged = {name.split("/")[0] for name in trainer.callback_metrics}
    assert {f"first_{prefix}_der", f"second_{prefix}_der", f"{prefix}_der"} <= logged
    assert OmegaConf.to_container(model.cfg[f"{stage}_ds"]) == given
    model.save_to(str(tmp_path / "x.nemo"))
    again = SortformerDiarizer.restore_from(str(tmp_path / "x.nemo"), map_location="cpu")
    getattr(again, f"setup_multiple_{stage}_data")(again.cfg[f"{stage}_ds"])
    assert getattr(again, f"_{stage}_names") == ["first_", "second_"]


def test_the_users_names_win(our_cfg, folders):
    data = {"manifest_filepath": folders, "batch_size": 2, "name": ["easy", "hard"]}
    model = SortformerDiarizer(cfg=our_cfg(validation_ds=data), trainer=make_trainer())
    assert model._validation_names == ["easy_", "hard_"]
    assert model.cfg.validation_ds.name == ["easy", "hard"]


def test_without_files_there_is_nothing_to_name(our_cfg):
    data = {"manifest_filepath": None, "batch_size": 2}
    model = SortformerDiarizer(cfg=our_cfg(validation_ds=data, test_ds=data), trainer=make_trainer())
    assert not model._validation_names
    assert model.cfg.validation_ds == data
