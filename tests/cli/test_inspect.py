# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer inspect`: whole, foreign, hostile and broken files, none of which it runs."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from nemo_sortformer.cli import app
from nemo_sortformer.inference.checkpoint import shipped_checkpoint
from nemo_sortformer.nemo_bridge import NemoFileError, describe, read_contents, read_nemo_weights

DIARIZER = """
target: nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel
nemo_version: 3.1.0
sample_rate: 16000
max_num_of_spks: 8
streaming_mode: true
preprocessor: {_target_: nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor, features: 128, normalize: NA,
  window_stride: 0.01}
encoder: {_target_: nemo.collections.asr.modules.ConformerEncoder, feat_in: 128, n_layers: 1, d_model: 8,
  subsampling_factor: 8}
transformer_encoder: {_target_: nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder,
  num_layers: 1, hidden_size: 4, inner_size: 8}
sortformer_modules: {_target_: nemo.collections.asr.modules.sortformer_modules.SortformerModules, num_spks: 8,
  chunk_len: 6, chunk_right_context: 7, spkcache_len: 188}
"""
WEIGHTS = {
    "encoder.layers.0.norm_out.weight": torch.ones(8),
    "transformer_encoder.layers.0.layer_norm_1.weight": torch.ones(4),
    "sortformer_modules.single_hidden_to_spks.weight": torch.ones(8, 4, dtype=torch.float16),
}


@pytest.fixture
def archive(tmp_path):
    """Write an archive of named contents and return its path."""

    def make(members, name="x.nemo", mode="w"):
        path = tmp_path / name
        with tarfile.open(path, mode) as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(f"./{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return make


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def diarizer(archive):
    """Write a file with the settings of a NeMo diarizer, lines added, and weights."""

    def make(extra="", weights=WEIGHTS, **options):
        members = {"model_config.yaml": (DIARIZER + extra).encode(), "model_weights.ckpt": saved(weights)}
        return archive(members, **options)

    return make


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_the_shipped_model_is_said_to_be_what_it_is():
    done = run(shipped_checkpoint())
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "what: Sortformer diarizer" in lines
    assert "audio: 16000 Hz, 80 mels, normalized per_feature, window 25 ms, hop 10 ms" in lines
    assert "speakers: at most 4" in lines
    assert any(line.startswith("diarize: yes") for line in lines)
    assert "\x1b" not in done.stdout


def test_neither_torch_nor_nemo_is_imported():
    code = (
        "import sys; from nemo_sortformer.cli import app; from typer.testing import CliRunner; "
        f"r = CliRunner().invoke(app, ['inspect', {str(shipped_checkpoint())!r}]); assert r.exit_code == 0, r.output; "
        "print([name for name in ('torch', 'nemo', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_json_has_everything(diarizer):
    done = run(diarizer(), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["loads"]
    assert found["kind"] == "Sortformer diarizer"
    assert found["slots"] == 8
    assert found["frame_seconds"] == 0.08
    assert found["streaming"]["chunk_len"] == 6
    assert found["latencies"] == ["30.4s", "10s", "1.04s", "0.32s"]
    assert found["parameters"] == {"encoder": 8, "transformer_encoder": 4, "sortformer_modules": 32}
    assert found["dtypes"] == {"float32": 12, "float16": 32}
    assert found["total_parameters"] == 44


def test_what_stops_a_file_is_named_with_the_way_out_and_the_exit_status(diarizer):
    done = run(diarizer("high_resolution: true\nnew_loss: 3\n"))
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    stopped = [line for line in lines if line.startswith("stopped by `high_resolution`: it is True")]
    assert stopped
    assert "NeMo that wrote it" in stopped[0]
    assert any(line.startswith("ignored `new_loss`") for line in lines)
    assert any(line.startswith("diarize: no, see what stops it") for line in lines)


def test_a_terminal_gets_colours(diarizer, monkeypatch):
    from rich.console import Console

    buffer = io.StringIO()
    terminal = Console(file=buffer, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("nemo_sortformer.cli.inspect.out", lambda: terminal)
    run(diarizer("high_resolution: true\n"))
    assert "\x1b[" in buffer.getvalue()
    assert "What stops it" in buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_compressed_and_unpacked_files_are_read_as_well(diarizer, mode, tmp_path):
    path = diarizer(mode=mode)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    assert describe(path).parameters == describe(tmp_path / "folder").parameters
    assert read_nemo_weights(path).keys() == WEIGHTS.keys()


def test_weights_of_old_pytorch_and_of_lightning_are_listed(archive):
    config = DIARIZER.encode()
    before = saved(WEIGHTS, _use_new_zipfile_serialization=False)
    old = archive({"model_config.yaml": config, "model_weights.ckpt": before})
    assert read_contents(old)["encoder.layers.0.norm_out.weight"].shape == (8,)
    nested = archive({"model_config.yaml": config, "model_weights.ckpt": saved({"state_dict": WEIGHTS})})
    assert set(read_contents(nested)) == set(WEIGHTS)


def test_types_and_shapes_are_those_of_torch(archive):
    types = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16")
    weights = {name: torch.zeros(2, 3, 1, dtype=getattr(torch, name)) for name in types}
    weights["scalar"] = torch.tensor(1.0)
    weights["part.of.another"] = torch.zeros(10, 10)[2:4, ::2]
    path = archive({"model_config.yaml": b"{a: 1}", "model_weights.ckpt": saved(weights)})
    found = read_contents(path)
    for name, tensor in weights.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == str(tensor.dtype).removeprefix("torch.")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_weights_is_refused_and_not_run(archive, tmp_path, zipped):
    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return exec, (f"open({str(marker)!r}, 'w').close()",)

    buffer = io.BytesIO()
    if zipped:
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps({"encoder.x": Runs()}))
    else:
        pickle.dump({"encoder.x": Runs()}, buffer)
    path = archive({"model_config.yaml": DIARIZER.encode(), "model_weights.ckpt": buffer.getvalue()})
    done = run(path)
    assert done.exit_code == 1
    assert "stopped by `model_weights.ckpt`" in done.stdout
    assert not marker.exists()
    with pytest.raises(NemoFileError):
        read_contents(path)


@pytest.mark.parametrize(
    "members, message",
    [
        ({"README.md": b"hello"}, "without `model_config.yaml`"),
        ({"model_config.yaml": b"- a\n- b\n"}, "must be a group of keys, but is a list"),
        ({"model_config.yaml": b"a: [1, 2"}, "is no YAML"),
        ({"model_config.yaml": b"\xff\xfe\x00"}, "is no YAML"),
        ({"model_config.yaml": b""}, None),
    ],
)
def test_broken_settings_are_one_line_on_the_error_stream(archive, members, message):
    done = run(archive(members))
    assert done.exit_code == (2 if message else 1), done.output
    if message:
        assert message in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "weights, message",
    [
        (None, "without `model_weights.ckpt`"),
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        (saved([1, 2]), "must hold weights by name"),
    ],
)
def test_settings_are_shown_where_the_weights_are_broken(archive, weights, message):
    members = {"model_config.yaml": DIARIZER.encode()}
    done = run(archive(members | ({} if weights is None else {"model_weights.ckpt": weights})))
    assert done.exit_code == 1
    assert "what: Sortformer diarizer" in done.stdout
    assert message in done.stdout


def test_shards_of_a_distributed_checkpoint_have_their_own_way_out(archive):
    done = run(archive({"model_config.yaml": DIARIZER.encode(), "model_weights/common.pt": b"x"}))
    assert "save it again on one process" in done.stdout


def test_a_missing_and_a_truncated_file_are_said_to_be_that(diarizer, tmp_path):
    assert "does not exist" in run(tmp_path / "no.nemo").stderr
    path = diarizer()
    path.write_bytes(path.read_bytes()[:-12_000])
    assert run(path).exit_code in (1, 2)
    path.write_bytes(path.read_bytes()[:600])
    done = run(path)
    assert done.exit_code == 2
    assert "x.nemo" in done.stderr


def test_settings_that_point_nowhere_are_shown_as_they_stand(archive):
    config = DIARIZER.replace("sample_rate: 16000", "sample_rate: ${nowhere.to.go}")
    done = run(archive({"model_config.yaml": config.encode(), "model_weights.ckpt": saved(WEIGHTS)}))
    assert done.exit_code == 1
    assert "nowhere" in done.stdout


@pytest.mark.parametrize(
    "target, kind",
    [
        ("nemo.collections.asr.models.label_models.EncDecSpeakerLabelModel", "speaker embedding model"),
        ("nemo.collections.tts.models.FastPitchModel", "other NeMo model (FastPitchModel)"),
        ("nemo_sortformer.models.future.model.Singer", "model of nemo_sortformer (Singer)"),
        ("", "NeMo model that does not name its class"),
    ],
)
def test_models_of_other_kinds_are_named(archive, target, kind):
    path = archive({"model_config.yaml": f"target: '{target}'\n".encode(), "model_weights.ckpt": saved({})})
    found = describe(path)
    assert found.kind == kind
    assert not any(ability.possible for ability in found.abilities.values())
    assert bool(found.problems) == (target == "nemo_sortformer.models.future.model.Singer")
