# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Scripts in the form of NeMo's find our settings and build our parts, from a checkout and from an installed wheel."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from hydra_plugins import nemo_sortformer_searchpath as plugin
from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.mixing import build_pool, write_conversations

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import lightning.pytorch as pl
from {source} import {model}
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

pl.seed_everything(42)


@hydra_runner(config_path="conf", config_name="of_the_script")
def main(cfg):
    logging.info(f"Settings: {{OmegaConf.to_yaml(cfg)}}")
    trainer = pl.Trainer(**cfg.trainer)
    exp_manager(trainer, cfg.get("exp_manager", None))
    model = {model}(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)


if __name__ == "__main__":
    main()
"""
NEMO, OURS = ("nemo.collections.asr.models", "SortformerEncLabelModel"), ("nemo_sortformer", "SortformerDiarizer")


def test_hydra_gets_the_folder_of_our_yamls_behind_the_scripts_own():
    search_path = ConfigSearchPathImpl()
    search_path.append("main", "file:///of/the/script")
    plugin.NemoSortformerSearchPath().manipulate_search_path(search_path)
    last = search_path.get_path()[-1]
    assert last.provider == "nemo_sortformer"
    assert last.path == f"file://{ROOT / 'configs'}"


def test_an_installed_package_has_the_yamls_inside(tmp_path, monkeypatch):
    package = tmp_path / "nemo_sortformer"
    (package / "configs").mkdir(parents=True)
    spec = types.SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(plugin, "find_spec", lambda name: spec)
    assert plugin.config_folder() == package / "configs"
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="nemo_sortformer is not"):
        plugin.config_folder()


def test_exactly_our_prefix_is_entered_and_only_where_nemo_is_loaded(monkeypatch):
    listed = types.SimpleNamespace(ALLOWED_TARGET_PREFIXES=["nemo.collections."])
    classes = types.ModuleType("nemo.core.classes")
    classes.common = listed
    for name in ("nemo", "nemo.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "nemo.core.classes", classes)
    monkeypatch.delitem(sys.modules, "nemo.core.classes.common", raising=False)
    plugin.NemoSortformerSearchPath().manipulate_search_path(ConfigSearchPathImpl())
    assert listed.ALLOWED_TARGET_PREFIXES == ["nemo.collections."]
    monkeypatch.setitem(sys.modules, "nemo.core.classes.common", listed)
    for _ in range(2):
        plugin.NemoSortformerSearchPath().manipulate_search_path(ConfigSearchPathImpl())
    assert listed.ALLOWED_TARGET_PREFIXES == ["nemo.collections.", "nemo_sortformer."]


def test_the_folder_of_plugins_stays_open_for_others():
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Conversations of synthetic voices as NeMo's manifest lists them."""
    config = MixingConfig(
        synthetic_speakers=4, session_seconds=4.0, turn_seconds=(0.5, 1.5), speaker_count_weights=[0, 1]
    )
    written = write_conversations(
        build_pool(config), config, tmp_path_factory.mktemp("data"), count=4, audio_format="wav"
    )
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    for line in lines:
        line |= {name: str(written.parent / line[name]) for name in ("audio_filepath", "rttm_filepath")}
        line.pop("uniq_id")
    path = written.with_name("absolute.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the wheel is installed in, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    done = subprocess.run([*command, str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(script, folder, path, *overrides):
    """Run a script as a process, with `path` in front of all that is installed."""
    (folder / "conf").mkdir()
    (folder / "conf" / "of_the_script.yaml").write_text("model: {}\n")
    (folder / "train.py").write_text(script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1", "PYTHONPATH": str(path)}
    command = [sys.executable, "train.py", *overrides]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_nemo_builds_our_data_sets_and_losses_by_target_once_the_plug_in_has_run(manifest):
    from nemo.core.classes.common import safe_instantiate

    plugin.NemoSortformerSearchPath().manipulate_search_path(ConfigSearchPathImpl())
    recorded = {
        "_target_": "nemo_sortformer.data.dataset.DiarizationDataset",
        "manifest": str(manifest),
        "num_slots": 2,
    }
    assert safe_instantiate(recorded)[0].targets.shape == (50, 2)
    mixed = {"_target_": "nemo_sortformer.data.mixing.MixingDataset", "num_slots": 2}
    mixed["config"] = {"synthetic_speakers": 3, "session_seconds": 2.0, "speaker_count_weights": [0, 1]}
    assert next(iter(safe_instantiate(mixed))).targets.shape == (25, 2)
    for name in ("SortedLabelLoss", "SortedProbabilityLoss"):
        loss = safe_instantiate({"_target_": f"nemo_sortformer.losses.{name}", "sort_weight": 1.0, "pil_weight": 0.0})
        assert type(loss).__name__ == name
    with pytest.raises(ValueError, match="unsafe target"):
        safe_instantiate({"_target_": "nemo_sortformer.data.rttm.read_rttm", "path": "x"})


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkout", "wheel"])
def test_a_script_that_knows_only_nemo_trains_with_our_parts(manifest, place, tmp_path, request):
    path = ROOT if place == "checkout" else request.getfixturevalue("site")
    said = run(
        SCRIPT.format(source=NEMO[0], model=NEMO[1]),
        tmp_path,
        path,
        "--config-name=nemo_sortformer_encoder_test",
        f"model.train_ds.manifest_filepath={manifest}",
        f"model.validation_ds.manifest_filepath={manifest}",
        "exp_manager.exp_dir=runs",
    )
    assert "`Trainer.fit` stopped: `max_steps=4` reached" in said
    file = next((tmp_path / "runs").rglob("*.nemo"))
    from nemo_sortformer.nemo_bridge import describe

    found = describe(file)
    assert found.target.endswith("SortformerEncLabelModel")
    assert found.state_encoder["_target_"] == "nemo_sortformer.modules.SortformerEncoder"
    where = (
        "import nemo_sortformer as package, hydra_plugins.nemo_sortformer_searchpath as plugin\n"
        "print(package.__file__, plugin.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(path)}
    shown = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert all(name.startswith(str(path)) for name in shown.stdout.split())


@pytest.fixture
def asr_file(tmp_path):
    """A CTC model of NeMo with the encoder of `diarizer_test.yaml`."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    model = OmegaConf.load(ROOT / "configs" / "diarizer_test.yaml").model
    front_end = {"_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", "window_size": 0.025}
    decoder = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32, "num_classes": 1}
    cfg = {
        "sample_rate": 16000,
        "preprocessor": front_end | dict(model.preprocessor) | {"n_fft": 512},
        "encoder": model.encoder,
        "decoder": decoder | {"vocabulary": ["a"]},
    }
    EncDecCTCModel(cfg=OmegaConf.create(cfg)).save_to(str(tmp_path / "asr.nemo"))
    return tmp_path / "asr.nemo"


@pytest.mark.slow
def test_with_one_import_changed_it_trains_our_diarizer_from_the_encoder_of_an_asr_model(manifest, asr_file, tmp_path):
    said = run(
        SCRIPT.format(source=OURS[0], model=OURS[1]),
        tmp_path,
        ROOT,
        "--config-name=diarizer_test",
        f"model.train_ds.manifest_filepath={manifest}",
        "exp_manager.exp_dir=runs",
        "trainer.max_steps=3",
        f"init_from_nemo_model={asr_file}",
    )
    assert f"tensors loaded from `{asr_file}`" in said
    assert "`Trainer.fit` stopped: `max_steps=3` reached" in said
    from nemo_sortformer.nemo_bridge import describe

    file = next((tmp_path / "runs").rglob("*.nemo"))
    assert describe(file).abilities["diarize"].possible
