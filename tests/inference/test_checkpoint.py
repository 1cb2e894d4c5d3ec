# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which model is loaded, and what is said where it cannot be."""

import re

import pytest

import nemo_sortformer
from nemo_sortformer.inference import checkpoint
from nemo_sortformer.inference.checkpoint import load_model, load_shipped, shipped_checkpoint


def test_a_saved_model_is_loaded_ready_for_use(tiny_model, tmp_path):
    path = tmp_path / "tiny.nemo"
    tiny_model.save_to(str(path))
    model = load_model(path, device="cpu")
    assert not model.training
    assert model.device.type == "cpu"


def test_a_missing_shipped_checkpoint_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "none.nemo")
    with pytest.raises(FileNotFoundError, match=r"none\.nemo.*missing.*--model"):
        load_model()


def test_the_shipped_checkpoint_has_one_name_and_one_place(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "files", lambda package: tmp_path / package)
    expected = tmp_path / "nemo_sortformer" / "checkpoints" / "sortformer_tiny.nemo"
    for load in (load_shipped, shipped_checkpoint, load_model):
        with pytest.raises(FileNotFoundError, match=re.escape(str(expected))):
            load()
    expected.parent.mkdir(parents=True)
    tiny_model.save_to(str(expected))
    tiny_model.save_to(str(expected.with_name("another.nemo")))
    assert shipped_checkpoint() == expected
    model = load_shipped(map_location="cpu")
    assert not model.training
    assert model.config.inference == tiny_model.config.inference


def test_it_is_a_public_name():
    assert nemo_sortformer.load_shipped is load_shipped


def test_a_missing_file_a_folder_and_a_file_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="is missing"):
        load_model(tmp_path / "no.nemo")
    with pytest.raises(ValueError, match="is a folder"):
        load_model(tmp_path)
    text = tmp_path / "text.nemo"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.nemo"):
        load_model(text)


def test_a_gpu_that_is_not_there(tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "tiny.nemo"
    tiny_model.save_to(str(path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no usable GPU"):
        load_model(path, device="cuda")
