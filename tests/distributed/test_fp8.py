# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Float8 layers: which maps they are, that they round, that any layout rounds as one process does, what files hold."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nemo_sortformer.config import ConfigError, ParallelConfig, from_cfg
from nemo_sortformer.distributed import accelerators, fp8
from nemo_sortformer.models.diarizer import SortformerDiarizer

pytest.importorskip("torchao", reason="`nemo_sortformer[fp8]` is not installed")
TWO = ["zero2", "tensor", "bf16"]
ON = ParallelConfig(fp8="on")
SAME = {"zero2": 5e-5, "tensor": 1e-5}
"""Found: 8e-6 with halves of a batch, whose largest values differ, 9e-8 with halves of a weight."""
ROUNDING = 0.01, 0.1, 0.15
"""Three bits of mantissa: each value is off by up to 2^-4, at random, and a gradient is a sum of many. The first two
bound the first gradient; the last one those of later steps, whose weights drift apart. Found: 0.045, with bf16 besides
0.058; later 0.084."""


def diarizer(**sizes):
    """A small diarizer; `sizes` are those of the SortFormer encoder."""
    state_encoder = {"num_layers": 2, "hidden_size": 32, "inner_size": 64, "num_attention_heads": 2} | sizes
    conformer = {"feat_in": 40, "n_layers": 1, "d_model": 32, "n_heads": 4, "ff_expansion_factor": 2}
    conformer |= {"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 8}
    cfg = {
        "max_num_of_spks": 16,
        "preprocessor": {"features": 40, "dither": 0.0},
        "encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder", **conformer},
        "transformer_encoder": {"_target_": "nemo_sortformer.modules.SortformerEncoder", **state_encoder},
    }
    torch.manual_seed(0)
    return SortformerDiarizer(cfg=OmegaConf.create(cfg))


def test_the_maps_of_layers_are_converted_and_no_head_and_no_label_estimate():
    model = diarizer()
    before = model.state_dict()
    names = fp8.convert_layers(model, ON, emulate=True)
    conformer = {f"self_attn.linear_{part}" for part in ("q", "k", "v", "out", "pos")}
    conformer |= {f"feed_forward{number}.linear{part}" for number in (1, 2) for part in (1, 2)}
    state = {f"{part}_net" for part in ("query", "key", "value")} | {"out_projection"}
    expected = {f"encoder.layers.0.{name}" for name in conformer}
    for layer in range(2):
        expected |= {f"transformer_encoder.layers.{layer}.attention.{name}" for name in state}
        expected |= {f"transformer_encoder.layers.{layer}.feed_forward.dense_{part}" for part in ("in", "out")}
    assert set(names) == expected
    found = {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}
    assert found == expected
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name] is before[name] or torch.equal(after[name], before[name]) for name in before)


def test_widths_that_no_float8_product_takes_stay():
    model = diarizer(inner_size=40)
    names = fp8.convert_layers(model, ON, emulate=True)
    assert not [name for name in names if "dense" in name]
    assert [name for name in names if "query_net" in name]
    shared = fp8.convert_layers(
        diarizer(inner_size=48), ParallelConfig(fp8="on", tensor_parallel_size=2), emulate=True
    )
    assert not [name for name in shared if "dense" in name], "24 inner units for each of two processes"


def test_auto_leaves_small_maps_and_says_so(caplog):
    model = diarizer(inner_size=1040)
    names = fp8.convert_layers(model, ParallelConfig(fp8="auto"), emulate=True)
    assert names == [f"transformer_encoder.layers.{layer}.feed_forward.dense_in" for layer in range(2)]
    assert [fp8.gains(nn.Linear(*size, device="meta")) for size in ((512, 512), (512, 2048), (4112, 16))] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("found, reason", [("no GPU", "there is no CUDA device"), ("no package", "not installed")])
def test_on_needs_a_gpu_that_has_it_and_auto_does_without(found, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if found == "no package":
        monkeypatch.setattr(accelerators, "folder_of", lambda name: None)
    model = diarizer()
    with pytest.raises(ConfigError, match=rf"`model.parallel.fp8: on` needs torchao, .*{reason}.*Or set it to `auto`"):
        fp8.convert_layers(model, ON)
    said = []
    monkeypatch.setattr(fp8.logging, "info", said.append)
    assert fp8.convert_layers(model, ParallelConfig(fp8="auto")) == []
    assert reason in said[0]
    assert fp8.convert_layers(model, ParallelConfig()) == []


@pytest.mark.parametrize("capability, usable", [((9, 0), True), ((8, 9), True), ((8, 6), False)])
def test_a_gpu_without_float8_is_named(capability, usable, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fp8.is_wanted("auto") is usable
    if not usable:
        with pytest.raises(ConfigError, match="on A GPU, which has no fp8: that begins with compute capability 8.9"):
            fp8.is_wanted("on")


def test_a_model_without_a_map_that_fits_is_refused():
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8))])
    with pytest.raises(ConfigError, match="sizes are multiples of 16, 16 for each process .* but of 1 there is none"):
        fp8.convert_layers(model, ON, emulate=True)


def test_on_and_off_are_words_in_yaml():
    cfg = OmegaConf.create("a: {fp8: on}\nb: {fp8: off}\nc: {fp8: auto}\nd: {fp8: maybe}")
    assert [from_cfg(ParallelConfig, cfg[key]).fp8 for key in "abc"] == ["on", "off", "auto"]
    with pytest.raises(ConfigError, match="`model.parallel.fp8` must be one of 'auto', 'on', 'off'"):
        from_cfg(ParallelConfig, cfg.d, path="model.parallel")


@pytest.fixture(scope="module")
def two(run_processes):
    """All layouts of two processes, beside one process that rounds and one that does not."""
    return run_processes("float8.py", 2, *TWO)


def distance(found, wanted):
    """Length of the difference of two sets of tensors by the length of the wanted one."""
    assert set(found) == set(wanted)
    pairs = [(found[n].double(), wanted[n].double()) for n in wanted if wanted[n].is_floating_point()]
    difference = sum((a - b).square().sum() for a, b in pairs)
    return float((difference / sum(b.square().sum() for _, b in pairs)).sqrt())


def errors(result, wanted):
    """Relative differences of losses, of the gradients of the first and of all steps, and of weights."""
    steps = range(len(wanted["gradients"]))
    gradients = [distance(result["gradients"][step], wanted["gradients"][step]) for step in steps]
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(result["losses"], wanted["losses"], strict=True)),
        "gradient": gradients[0],
        "later gradient": max(gradients),
        "weight": distance(result["weights"], wanted["weights"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "tensor"])
def test_two_processes_round_as_one_does(two, name):
    result = two[name]
    found = errors(result, two["float8"])
    assert max(found.values()) < SAME[name], found
    assert result["checksums"][0] == result["checksums"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float8", *TWO])
def test_float8_is_off_by_its_rounding_and_not_by_more(two, name):
    found = errors(two[name], two["float32"])
    assert ROUNDING[0] < found["gradient"] < ROUNDING[1], found
    assert found["later gradient"] < ROUNDING[2], found
    assert 1e-4 < found["loss"] < 1e-2, found
    assert found["weight"] < 1e-2, found


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_what_the_optimizer_changes_is_float32_and_the_maps_are_float8(two, name):
    assert two[name]["dtypes"] == {torch.float32}
    kinds = two[name]["classes"]
    for layer in ("encoder.layers.1.feed_forward1.linear2", "transformer_encoder.layers.1.first_sub_layer.query_net"):
        assert "Float8Linear" in kinds[layer], kinds[layer]
    assert "Float8Linear" not in kinds["sortformer_modules.first_hidden_to_hidden"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_a_file_of_a_float8_run_is_that_of_a_plain_model(two, name):
    model = SortformerDiarizer.restore_from(str(two[name]["file"]), map_location="cpu")
    weights = model.state_dict()
    assert set(weights) == set(two["float32"]["weights"]) == set(two[name]["weights"])
    assert all(torch.equal(weights[key], value) for key, value in two[name]["weights"].items())
    assert not [one for one in model.modules() if "Float8" in type(one).__name__]
    assert len(model.diarize(torch.randn(32000).numpy() * 0.1, sample_rate=16000)) == 1
