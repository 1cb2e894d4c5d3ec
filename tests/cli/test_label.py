# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer label` as a user runs it: what is written, what is said, and the exit status."""

import json
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.data.rttm import read_rttm

ENCODER = {
    "_target_": "nemo_sortformer.modules.SortformerEncoder",
    "num_layers": 2,
    "hidden_size": 8,
    "inner_size": 16,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random labelers as .nemo files: one kind of label, and two."""
    import torch
    from omegaconf import OmegaConf

    from nemo_sortformer.models.labeler import SortformerLabeler

    folder = tmp_path_factory.mktemp("models")
    kinds = {"speaker": {"num_classes": 3}, "language": {"num_classes": 2}}
    for name, slots in (("one", {"max_num_of_classes": 3}), ("two", {"heads": kinds})):
        torch.manual_seed(0)
        model = SortformerLabeler(OmegaConf.create({"input_dim": 6, "encoder": ENCODER, "frame_seconds": 0.1} | slots))
        with torch.no_grad():
            for key, parameter in model.label_head.named_parameters():
                parameter.normal_() if key.endswith("weight") else parameter.zero_()
        model.save_to(str(folder / f"{name}.nemo"))
    return {name: folder / f"{name}.nemo" for name in ("one", "two")}


@pytest.fixture
def embeddings(tmp_path):
    """Write a sequence of embeddings and return its path."""

    def write(name, frames=20, value=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(len(name)).normal(size=(frames, 6))
        if value is not None:
            array[3] = value
        np.save(path, array)
        return path

    return write


def run(*arguments):
    with warnings.catch_warnings():
        return CliRunner().invoke(app, ["label", *map(str, arguments)])


def test_label_writes_beside_the_embeddings(models, embeddings):
    path = embeddings("a.npy")
    done = run(path, "--model", models["one"])
    assert done.exit_code == 0, done.output
    assert "classes in 20 frames" in done.stdout
    segments = read_rttm(path.with_suffix(".rttm"))["a"]
    assert {segment.speaker for segment in segments} <= {"class_0", "class_1", "class_2"}
    assert max(segment.end for segment in segments) <= 2.0


def test_all_formats_of_a_manifest_go_into_a_folder_and_are_scored(models, embeddings, tmp_path):
    embeddings("a.npy"), embeddings("longer.npy", frames=50)
    lines = [{"embeddings_filepath": f"{name}.npy", "uniq_id": f"id_{name}"} for name in ("a", "longer")]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "truth.rttm").write_text("SPEAKER id_a 1 0.0 1.0 <NA> <NA> x <NA> <NA>\n")
    out = tmp_path / "out"
    options = ["--output-dir", out, "--format", "rttm,json,audacity,png", "--reference", tmp_path / "truth.rttm"]
    done = run(tmp_path / "list.jsonl", "--model", models["one"], *options)
    assert done.exit_code == 0, done.output
    endings = (".rttm", ".seglst.json", ".labels.txt", ".png")
    assert {path.name for path in out.iterdir()} == {f"id_{n}{e}" for n in ("a", "longer") for e in endings}
    assert "DER" in done.stdout
    assert "No truth in" in done.stderr
    assert json.loads((out / "id_a.seglst.json").read_text())[0]["session_id"] == "id_a"


def test_each_kind_of_label_has_its_own_files(models, embeddings, tmp_path):
    path = embeddings("a.npy")
    done = run(path, "--model", models["two"], "--format", "rttm,json")
    assert done.exit_code == 0, done.output
    kinds = ("language", "speaker")
    assert {p.name for p in tmp_path.glob("a.*.*")} == {f"a.{k}{e}" for k in kinds for e in (".rttm", ".seglst.json")}
    for kind in kinds:
        segments = read_rttm(tmp_path / f"a.{kind}.rttm")["a"]
        assert {segment.speaker.partition("_")[0] for segment in segments} == {kind}
    again = run(path, "--model", models["two"])
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    refused = run(path, "--model", models["two"], "--reference", tmp_path / "a.speaker.rttm", "--overwrite")
    assert refused.exit_code == 2
    assert "`reference` is for models of one kind" in refused.stderr


def test_one_bad_file_costs_only_itself(models, embeddings, tmp_path):
    good = [embeddings("a.npy"), embeddings("empty.npy", frames=0), embeddings("one.npy", frames=1)]
    bad = [embeddings("nan.npy", value=np.nan), tmp_path / "gone.npy"]
    done = run(*good, *bad, good[0], "--model", models["one"])
    assert done.exit_code == 1
    assert all(path.with_suffix(".rttm").is_file() for path in good)
    assert "2 of 5 sequences failed" in done.stderr
    assert "the first is frame 3" in done.stderr
    assert "given twice and taken once" in done.stderr
    assert (tmp_path / "empty.rttm").read_text() == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "midi"], "`format` must be of rttm"),
        (["--model", "gone.nemo"], "`model` must be a .nemo file"),
        (["--batch-size", "0"], "`batch_size` must be at least 1"),
        (["--assignment", "clustering"], "needs a model with affinity embeddings"),
    ],
)
def test_wrong_options_are_one_readable_line(models, embeddings, arguments, message):
    given = ["--model", models["one"]] if "--model" not in arguments else []
    done = run(embeddings("a.npy"), *given, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_the_model_of_another_kind_is_refused(embeddings, tmp_path):
    from nemo_sortformer.inference.checkpoint import shipped_checkpoint

    done = run(embeddings("a.npy"), "--model", shipped_checkpoint())
    assert done.exit_code == 2
    assert "no Sortformer labeler" in done.stderr
