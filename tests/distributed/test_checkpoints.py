# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A run that stops goes on as if it had not: in any layout, from one file or from parts, killed at any moment."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer import nemo_bridge
from nemo_sortformer.models.diarizer import SortformerDiarizer

pytestmark = pytest.mark.slow

ZERO3 = {"zero_stage": 3}
SHARDS = ZERO3 | {"sharded_checkpoints": True}
TENSOR = {"tensor_parallel_size": 2}


def legs(*several):
    return [json.dumps(one) for one in several]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def with_dropout(run_processes, folder):
    """Two processes, dropout on: six steps with a checkpoint on the way, and three steps from each checkpoint."""
    common = {"parallel": ZERO3, "dropout": 0.2, "norm": "batch_norm"}
    sharded = common | {"parallel": SHARDS}
    way, one, parts = (str(folder / f"dropout_{name}.ckpt") for name in ("way", "one", "parts"))
    results = run_processes(
        "resume.py",
        2,
        *legs(
            common | {"steps": 6, "save_at": [3, way]},
            common | {"steps": 6, "from": way},
            common | {"steps": 3, "to": one},
            common | {"steps": 6, "from": one},
            sharded | {"steps": 3, "to": parts},
            sharded | {"steps": 6, "from": parts},
        ),
    )
    return dict(zip(["straight", "on the way", "first", "one file", "first parts", "parts"], results))


@pytest.fixture(scope="module")
def layouts(run_processes, folder):
    """Two processes, no dropout: six steps at once, three on parts of the data, and three more split by tensors."""
    one, parts = str(folder / "one.ckpt"), str(folder / "parts.ckpt")
    results = run_processes(
        "resume.py",
        2,
        *legs(
            {"parallel": ZERO3, "steps": 6, "nemo": str(folder / "whole.nemo")},
            {"parallel": ZERO3, "steps": 3, "to": one, "ema": 0.5},
            {"parallel": SHARDS, "steps": 3, "to": parts, "ema": 0.5},
            {"parallel": TENSOR, "steps": 6, "from": one},
            {"parallel": TENSOR, "steps": 6, "from": parts, "to": str(folder / "tensor.ckpt")},
            {"parallel": ZERO3, "steps": 6, "from": parts, "ema": 0.5},
            {"parallel": ZERO3, "steps": 6, "ema": 0.5},
        ),
    )
    names = ["straight", "first", "first parts", "tensor", "tensor from parts", "average resumed", "average"]
    return dict(zip(names, results))


@pytest.fixture(scope="module")
def alone(run_processes, folder, layouts):
    """One process goes on from what two wrote."""
    scaled = ZERO3 | {"dtype": "fp16", "fp16_init_scale": 1024.0}
    one, parts = str(folder / "one.ckpt"), str(folder / "parts.ckpt")
    results = run_processes(
        "resume.py",
        1,
        *legs(
            {"parallel": ZERO3, "steps": 6, "from": one},
            {"parallel": ZERO3, "steps": 6, "from": parts},
            {
                "parallel": scaled,
                "steps": 4,
                "from": one,
                "to": one + "16",
            },
            {"parallel": ZERO3 | {"dtype": "bf16"}, "steps": 6, "from": one + "16"},
            {"parallel": ZERO3 | {"dtype": "fp16"}, "steps": 6, "from": one + "16"},
        ),
    )
    return dict(zip(["one file", "parts", "fp16", "fp16 to bf16", "fp16 to fp16"], results))


@pytest.mark.parametrize("form", ["on the way", "one file", "parts"])
def test_a_resumed_run_is_the_same_to_the_last_bit(with_dropout, form):
    straight, resumed = with_dropout["straight"], with_dropout[form]
    assert resumed["losses"] == straight["losses"][3:], "same items, same dropout, same weights"
    assert resumed["learning_rate"] == straight["learning_rate"]
    for name, weight in straight["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name


@pytest.mark.parametrize("form", ["tensor", "tensor from parts"])
def test_a_data_parallel_run_goes_on_split_by_tensors(layouts, form):
    check_goes_on(layouts["straight"], layouts[form])


@pytest.mark.parametrize("form", ["one file", "parts"])
def test_one_process_goes_on_with_the_run_of_two(layouts, alone, form):
    check_goes_on(layouts["straight"], alone[form])


def check_goes_on(straight, resumed):
    assert resumed["losses"] == pytest.approx(straight["losses"][3:], rel=1e-5)
    for name, weight in straight["weights"].items():
        assert_close(
            resumed["weights"][name], weight, rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_run_goes_on_in_another_precision_and_keeps_its_scale(layouts, alone):
    straight = layouts["straight"]["losses"]
    assert alone["fp16"]["scale"] == 1024.0
    assert alone["fp16 to fp16"]["scale"] == 1024.0, "not that of the settings, 65536"
    assert alone["fp16 to bf16"]["scale"] is None
    assert alone["fp16"]["losses"] == pytest.approx(straight[3:4], rel=1e-3)
    for form in ("fp16 to bf16", "fp16 to fp16"):
        assert alone[form]["losses"] == pytest.approx(straight[4:], rel=5e-3)


def test_averages_of_weights_are_kept_in_parts_and_go_on(layouts):
    average, resumed = layouts["average"]["average"], layouts["average resumed"]["average"]
    weights = layouts["average"]["weights"]
    assert any(not torch.equal(average[name], weights[name]) for name in average)
    for name, value in average.items():
        assert torch.equal(resumed[name], value), name


def test_one_file_is_a_checkpoint_that_lightning_itself_reads(layouts, folder):
    checkpoint = torch.load(folder / "one.ckpt", weights_only=False)
    weights = checkpoint["state_dict"]
    assert not any(hasattr(value, "full_tensor") for value in weights.values())
    assert set(weights) == set(layouts["first"]["weights"])
    state = checkpoint["optimizer_states"][0]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    assert set(state["state"]) <= set(numbers)
    model = SortformerDiarizer(cfg=checkpoint["hyper_parameters"]["cfg"])
    model.load_state_dict(weights)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    if len(numbers) == len(trained):
        optimizer.load_state_dict(state)


def test_parts_lie_on_their_processes(folder, layouts):
    found = sorted((folder.with_name(folder.name + ".shards")).glob("parts-*"))
    assert len(found) == 1
    sizes = {path.name: path.stat().st_size for path in found[0].glob("*.distcp")}
    assert set(sizes) == {"__0_0.distcp", "__1_0.distcp"}
    small, large = sorted(sizes.values())
    assert large < 1.3 * small
    assert (folder / "parts.ckpt").stat().st_size < small / 2, "the file that names them holds no weights"


def model_in(path):
    """The model of a .nemo file whose class is that of a worker."""
    cfg = nemo_bridge.read_nemo_config(path)
    cfg.pop("target")
    model = SortformerDiarizer(cfg=cfg).eval()
    model.load_state_dict(nemo_bridge.read_nemo_weights(path))
    return model


def diarized(model):
    """Segments and probabilities of something to hear."""
    audio = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)).numpy()
    segments, probs = model.diarize(audio, sample_rate=16000, include_tensor_outputs=True, verbose=False)
    return segments[0], probs[0]


def test_the_nemo_file_is_that_of_one_process(layouts, folder, tmp_path):
    path = folder / "whole.nemo"
    weights = nemo_bridge.read_nemo_weights(path)
    for name, weight in layouts["straight"]["weights"].items():
        assert torch.equal(weights[name], weight), name
    model = model_in(path)
    model.save_to(str(tmp_path / "alone.nemo"))
    restored = SortformerDiarizer.restore_from(str(tmp_path / "alone.nemo")).eval()
    assert torch.equal(diarized(model)[1], diarized(restored)[1])


def test_the_nemo_file_of_four_processes_diarizes_as_that_of_one(run_processes, tmp_path):
    split = {"tensor_parallel_size": 2, "zero_stage": 3}
    four, one = tmp_path / "four.nemo", tmp_path / "one.nemo"
    (trained,) = run_processes("resume.py", 4, *legs({"parallel": split, "steps": 3, "nemo": str(four)}))
    run_processes("resume.py", 1, *legs({"parallel": {}, "steps": 3, "nemo": str(one)}))
    weights = nemo_bridge.read_nemo_weights(four)
    for name, weight in trained["weights"].items():
        assert torch.equal(weights[name], weight), name
    (segments, probs), (wanted_segments, wanted_probs) = diarized(model_in(four)), diarized(model_in(one))
    assert segments == wanted_segments
    assert_close(probs, wanted_probs, rtol=0, atol=1e-5)
    untrained = SortformerDiarizer(cfg=model_in(one).cfg).eval()
    assert (diarized(untrained)[1] - wanted_probs).abs().max() > 1e-3, "three steps change what it says"


@pytest.mark.parametrize("parallel", [ZERO3, SHARDS], ids=["one file", "parts"])
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    start_processes, run_processes, tmp_path, parallel
):
    path = tmp_path / "run" / "last.ckpt"
    common = {"parallel": parallel, "dropout": 0.2}
    started = start_processes(
        "resume.py", 2, [tmp_path / "none", *legs(common | {"steps": 4, "slow_save": str(path)})]
    )
    sign = Path(f"{path}.writing")
    end = time.monotonic() + 600
    while not sign.exists():
        assert time.monotonic() < end, started.output()
        assert any(process.is_alive() for process in started.processes), started.output()
        time.sleep(0.1)
    for process in started.processes:
        os.kill(process.pid, signal.SIGKILL)
    assert started.wait(20) == [-signal.SIGKILL] * 2
    sign.unlink()
    assert len([one for one in path.parent.iterdir() if one != path]) == 1, "the half-written file"
    resumed, straight = run_processes(
        "resume.py",
        2,
        *legs(common | {"steps": 3, "from": str(path), "to": str(path)}, common | {"steps": 3}),
    )
    assert resumed["losses"] == straight["losses"][1:]
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]
    if parallel is SHARDS:
        assert len(list((tmp_path / "run.shards").iterdir())) == 1, "parts of the checkpoints before are gone"
