# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is taken for NVIDIA's, on packages made up on the spot; nothing foreign may be imported to find out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nemo_sortformer.config import ConfigError
from nemo_sortformer.distributed import accelerators
from nemo_sortformer.distributed.accelerators import (
    automatic_choices,
    find_accelerators,
    make_adamw,
    use_fused_layer_norms,
    wanted,
)

ROOT = Path(__file__).parents[2]
PYRAMID = "from pyramid.session import UnencryptedCookieSessionFactoryConfig\n"
EXPLODES = "raise RuntimeError('Found empty package')\n"
APEX = {"apex/__init__.py": EXPLODES, "apex/multi_tensor_apply/__init__.py": "", "apex/optimizers/__init__.py": ""}
FOREIGN = ("apex", "megatron", "torchao", "transformer_engine")
CASES = {
    "no apex": ("NVIDIA apex", {}, "not installed; build it from github.com/NVIDIA/apex"),
    "another apex": ("NVIDIA apex", {"apex/__init__.py": PYRAMID}, "is another project (Web toolkit): uninstall it"),
    "apex in Python only": ("NVIDIA apex", APEX, "NVIDIA's, but without its compiled part `amp_C`"),
    "apex without norms": (
        "NVIDIA apex",
        APEX | {"amp_C.py": EXPLODES},
        "without its compiled part `fused_layer_norm_cuda`",
    ),
    "whole apex": (
        "NVIDIA apex",
        APEX | {"amp_C.py": EXPLODES, "fused_layer_norm_cuda.py": EXPLODES},
        "NVIDIA's, with its compiled part, but there is no CUDA device",
    ),
    "no engine": ("Transformer Engine", {}, "not installed"),
    "empty engine": (
        "Transformer Engine",
        {"transformer_engine/__init__.py": EXPLODES},
        "without its part for torch, and its import raises an error",
    ),
    "whole engine": (
        "Transformer Engine",
        {"transformer_engine/__init__.py": EXPLODES, "transformer_engine_torch-2.15.dist-info/METADATA": ""},
        "with its part for torch, but there is no CUDA device",
    ),
    "torchao without float8": ("torchao", {"torchao/__init__.py": EXPLODES}, "lacks its float8 layers"),
    "torchao": (
        "torchao",
        {"torchao/__init__.py": EXPLODES, "torchao/float8/float8_linear.py": EXPLODES},
        "with its float8 layers, but there is no CUDA device",
    ),
    "no megatron": ("megatron-core", {"megatron/__init__.py": EXPLODES}, "not installed"),
    "megatron": ("megatron-core", {"megatron/core/parallel_state.py": EXPLODES}, "NVIDIA's, but there is no CUDA"),
    "no flash": ("flash-attn", {"flash_attn/__init__.py": EXPLODES}, "lacks its compiled part"),
    "flash": (
        "flash-attn",
        {"flash_attn/flash_attn_interface.py": EXPLODES, "flash_attn_2_cuda.py": EXPLODES},
        "with its compiled part, but there is no CUDA device",
    ),
    "another triton": ("triton", {"triton/__init__.py": EXPLODES}, "is another project"),
    "triton": (
        "triton",
        {"triton/compiler/__init__.py": EXPLODES},
        "the compiler's own package, but there is no CUDA",
    ),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write files as packages that Python finds first; the `apex` among them has metadata."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content or "Metadata-Version: 2.1\nName: x\nVersion: 1\n" * name.endswith("METADATA"))
        metadata = tmp_path / "apex-0.9.10.dist-info" / "METADATA"
        metadata.parent.mkdir(exist_ok=True)
        metadata.write_text("Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10\nSummary: Web toolkit\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    for part in [name for name in sys.modules if name.split(".")[0] in FOREIGN]:
        monkeypatch.delitem(sys.modules, part)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return write


@pytest.mark.parametrize("case", CASES)
def test_a_package_is_judged_by_its_parts_and_never_imported(case, install):
    name, files, reason = CASES[case]
    install(files)
    found = {one.name: one for one in find_accelerators()}
    assert reason in found[name].reason
    assert not any(one.usable for one in found.values())
    assert reason in str(found[name])


@pytest.mark.parametrize(
    "capability, reason", [((9, 0), "which has fp8"), ((8, 9), "which has fp8"), ((8, 0), "which has no fp8")]
)
def test_fp8_needs_a_gpu_that_has_it(capability, reason, install, monkeypatch):
    install(CASES["whole engine"][1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    found = accelerators.find_transformer_engine()
    assert found.usable
    assert found.reason.endswith(reason)


def test_on_insists_off_declines_auto_looks(install, monkeypatch):
    install(CASES["another apex"][1])
    assert not wanted("apex", "auto")
    with pytest.raises(ConfigError, match=r"`apex: on` needs NVIDIA apex, but it cannot be used: .* another project"):
        wanted("apex", "on")
    usable = accelerators.Accelerator("apex", True, "there", "tests")
    monkeypatch.setitem(accelerators.FINDERS, "apex", lambda: usable)
    assert [wanted("apex", policy) for policy in ("auto", "on", "off")] == [True, True, False]


def test_adamw_is_torchs_fused_one_and_takes_the_same_steps():
    def train(**options):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        if options:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
        else:
            optimizer = make_adamw(model.parameters(), lr=0.01)
            assert optimizer.param_groups[0]["fused"]
        for step in range(5):
            optimizer.zero_grad()
            model(torch.full((2, 5), float(step))).square().sum().backward()
            optimizer.step()
        return model.weight

    torch.testing.assert_close(train(), train(foreach=False))


def test_nemos_adamw_takes_the_fused_setting():
    from nemo.core.optim.optimizers import get_optimizer

    optimizer = get_optimizer("adamw")([nn.Parameter(torch.ones(2))], lr=0.1, fused=True)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    assert optimizer.param_groups[0]["fused"]


@pytest.fixture
def whole_apex(install, monkeypatch):
    """An apex that passes for NVIDIA's and can be imported, on a machine that passes for one with a GPU."""
    optimizer = "import torch\nclass FusedAdam(torch.optim.AdamW):\n"
    optimizer += (
        "    def __init__(self, groups, adam_w_mode, **options):\n        super().__init__(groups, **options)\n"
    )
    norm = "import torch\nclass FusedLayerNorm(torch.nn.LayerNorm):\n    pass\n"
    files = {"apex/__init__.py": "", "apex/multi_tensor_apply/__init__.py": "", "amp_C.py": ""}
    files |= {"apex/optimizers/__init__.py": optimizer, "fused_layer_norm_cuda.py": ""}
    install(files | {"apex/normalization/__init__.py": norm})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")


def test_apex_makes_the_optimizer_only_for_whole_parameters_on_a_gpu(whole_apex):
    assert wanted("apex", "auto")
    parameters = [nn.Parameter(torch.ones(2))]
    assert type(make_adamw(parameters, lr=0.1)) is torch.optim.AdamW
    with pytest.raises(ConfigError, match="needs whole parameters on a GPU"):
        make_adamw([{"params": parameters}], apex="on", lr=0.1)


def test_layer_norms_are_replaced_with_their_parameters_where_asked_for(whole_apex):
    model = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)))
    before = dict(model.named_parameters())
    assert use_fused_layer_norms(model) == 0
    assert use_fused_layer_norms(model, apex="on") == 2
    assert type(model[0]).__name__ == "FusedLayerNorm"
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == {
        n: id(p) for n, p in before.items()
    }


def test_without_a_gpu_everything_is_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert automatic_choices()["precision"].startswith("fp32")
    assert "torch AdamW, fused" in automatic_choices()["optimizer"]


@pytest.mark.slow
def test_an_apex_that_would_break_nemo_is_hidden_from_it_and_left_to_others(install):
    folder = install({"apex/__init__.py": "", "pyramid/__init__.py": "", "pyramid/session.py": ""})
    (folder / "apex" / "__init__.py").write_text("import sys\nif 'nemo' in sys.modules:\n    " + PYRAMID)
    code = (
        "import json, sys\nimport nemo_sortformer\nimport nemo.core.optim.optimizers as optimizers\n"
        "hidden = optimizers.HAVE_APEX\ndel sys.modules['nemo']\nimport apex\n"
        "print(json.dumps([hidden, apex.__file__]))"
    )
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    have_apex, place = json.loads(done.stdout.splitlines()[-1])
    assert not have_apex
    assert place == str(folder / "apex" / "__init__.py")
    broken = code.replace("import nemo_sortformer\n", "")
    done = subprocess.run([sys.executable, "-c", broken], env=environment, capture_output=True, text=True)
    assert "UnencryptedCookieSessionFactoryConfig" in done.stderr


@pytest.mark.gpu
def test_fused_adam_of_apex_takes_the_steps_of_adamw():
    if not accelerators.find_apex().usable:
        pytest.skip(accelerators.find_apex().reason)
    weights = []
    for policy in ("on", "off"):
        torch.manual_seed(0)
        model = nn.Linear(64, 64).cuda()
        optimizer = make_adamw(model.parameters(), apex=policy, lr=0.01, weight_decay=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(4, 64, device="cuda")).square().sum().backward()
            optimizer.step()
        weights.append(model.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
