# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which model is loaded, and what is said where it cannot be."""

import pytest

from nemo_sortformer.inference import checkpoint
from nemo_sortformer.inference.checkpoint import load_model


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
