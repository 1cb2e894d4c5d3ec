# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which optional accelerators are really there, and what is used of them.

An import is no proof: packages of other authors have the same names, and packages without their compiled part import
well and fail at the first use. Nor is anything imported to find out: an empty `transformer-engine` raises on import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nemo_sortformer.config import ConfigError
from nemo_sortformer.foreign_packages import folder_of, is_nvidia_apex

Policy = Literal["auto", "on", "off"]
"""Use an accelerator where it is verified and of use; insist on it; leave it alone."""
FP8_CAPABILITY = (8, 9)
"""The first GPUs with float8."""


@dataclass(frozen=True)
class Accelerator:
    """What was found of one optional package."""

    name: str
    usable: bool
    """It is its authors' own, complete, and this machine has what it needs."""
    reason: str
    """Why it is usable, or why not and what to do."""
    use: str
    """What it is for here."""
    version: str | None = None

    def __str__(self) -> str:
        found = "usable" if self.usable else "not usable"
        return f"{found}{f', {self.version}' if self.version else ''}: {self.reason}; for {self.use}"


def find_apex() -> Accelerator:
    """NVIDIA apex: fused optimizers and norms. The `apex` of the package index is another project."""
    return Accelerator(
        "NVIDIA apex", *_judge_apex(), "FusedAdam and FusedLayerNorm, where asked for", _version("apex")
    )


def _judge_apex() -> tuple[bool, str]:
    build = "build it from github.com/NVIDIA/apex with a CUDA toolkit, never by `pip install apex`"
    folder = folder_of("apex")
    if folder is None:
        return False, f"not installed; {build}"
    if not is_nvidia_apex(folder):
        return False, f"the package in `{folder}` is another project{_summary('apex')}: uninstall it; {build}"
    missing = [name for name in ("amp_C", "fused_layer_norm_cuda") if not _exists(name)]
    if missing:
        return False, f"NVIDIA's, but without its compiled part `{missing[0]}`; {build}"
    return _with_gpu("NVIDIA's, with its compiled part")


def find_transformer_engine() -> Accelerator:
    """Transformer Engine: layers in fp8, on GPUs that have it."""
    return Accelerator(
        "Transformer Engine",
        *_judge_transformer_engine(),
        "nothing here: fp8 layers are torchao's",
        _version("transformer_engine_torch"),
    )


def _judge_transformer_engine() -> tuple[bool, str]:
    if folder_of("transformer_engine") is None:
        return False, "not installed"
    if _version("transformer_engine_torch") is None:
        return False, (
            "the package `transformer-engine` is there without its part for torch, and its import raises an error; "
            "install `transformer-engine[pytorch]`, or uninstall it"
        )
    usable, reason = _with_gpu("with its part for torch")
    if usable and torch.cuda.get_device_capability() < FP8_CAPABILITY:
        return True, f"{reason}, which has no fp8"
    return usable, f"{reason}, which has fp8" if usable else reason


def find_torchao() -> Accelerator:
    """torchao, PyTorch's own package of layers in float8."""
    return Accelerator("torchao", *_judge_torchao(), "fp8 layers, with `model.parallel.fp8`", _version("torchao"))


def _judge_torchao() -> tuple[bool, str]:
    folder = folder_of("torchao")
    if folder is None:
        return False, "not installed; `pip install nemo_sortformer[fp8]`"
    if not (folder / "float8" / "float8_linear.py").is_file():
        return False, f"the package in `{folder}` lacks its float8 layers; `pip install nemo_sortformer[fp8]`"
    usable, reason = _with_gpu("with its float8 layers")
    if usable and torch.cuda.get_device_capability() < FP8_CAPABILITY:
        return False, f"{reason}, which has no fp8: that begins with compute capability 8.9 (Ada, Hopper)"
    return usable, f"{reason}, which has fp8" if usable else reason


def find_megatron_core() -> Accelerator:
    """megatron-core: NVIDIA's engine for model parallelism."""
    name = "megatron-core"
    use = "comparison in tests; training here runs on torch's own engine"
    folder = folder_of("megatron")
    if folder is None or not (folder / "core" / "parallel_state.py").is_file():
        return Accelerator(name, False, "not installed", use)
    return Accelerator(name, *_with_gpu("NVIDIA's"), use, _version("megatron-core"))


def find_flash_attention() -> Accelerator:
    """The package `flash-attn`; torch has a flash kernel of its own."""
    name = "flash-attn"
    use = "nothing here: torch's scaled_dot_product_attention has its own flash kernel"
    folder = folder_of("flash_attn")
    if folder is None:
        return Accelerator(name, False, "not installed", use)
    if not (folder / "flash_attn_interface.py").is_file() or not _exists("flash_attn_2_cuda"):
        return Accelerator(name, False, f"the package in `{folder}` lacks its compiled part", use)
    return Accelerator(name, *_with_gpu("with its compiled part"), use, _version("flash-attn"))


def find_triton() -> Accelerator:
    """Triton: the compiler behind `torch.compile` on GPUs."""
    use = "`torch.compile` on a GPU"
    folder = folder_of("triton")
    if folder is None:
        return Accelerator("triton", False, "not installed; torch for CUDA brings it along", use)
    if not (folder / "compiler").is_dir():
        return Accelerator("triton", False, f"the package in `{folder}` is another project", use)
    version = _version("triton") or _version("pytorch-triton")
    return Accelerator("triton", *_with_gpu("the compiler's own package"), use, version)


FINDERS: dict[str, Callable[[], Accelerator]] = {
    "apex": find_apex,
    "torchao": find_torchao,
    "transformer_engine": find_transformer_engine,
    "megatron_core": find_megatron_core,
    "flash_attention": find_flash_attention,
    "triton": find_triton,
}


def find_accelerators() -> list[Accelerator]:
    """All that this package knows of, found or not."""
    return [find() for find in FINDERS.values()]


def wanted(name: str, policy: Policy, *, key: str | None = None) -> bool:
    """Whether to use an accelerator.

    Args:
        name: a key of :data:`FINDERS`.
        policy: what the user said.
        key: where the user said it, if not under `name`.

    Raises:
        ConfigError: the user insists on what is not there; the message says why not.
    """
    if policy == "off":
        return False
    found = FINDERS[name]()
    if policy == "on" and not found.usable:
        raise ConfigError(
            f"`{key or name}: on` needs {found.name}, but it cannot be used: {found.reason}. Or set it to `auto`."
        )
    return found.usable


def make_adamw(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]], *, apex: Policy = "auto", **options: Any
) -> Any:
    """AdamW in its fastest form: torch's fused one, or that of NVIDIA apex.

    Args:
        parameters: tensors, or groups of them as any torch optimizer takes them.
        apex: `on` insists on apex; `auto` takes it where it is verified and all parameters are whole tensors on a GPU:
            it knows nothing of parts.
        **options: `lr`, `betas`, `eps`, `weight_decay`.

    Raises:
        ConfigError: `on`, but apex cannot be used, or the parameters are divided or not on a GPU.
    """
    groups = list(parameters)
    tensors = [tensor for one in groups for tensor in (one["params"] if isinstance(one, dict) else [one])]
    fits = all(type(tensor.data) is Tensor and tensor.is_cuda for tensor in tensors)
    if wanted("apex", apex) and fits:
        return import_module("apex.optimizers").FusedAdam(groups, adam_w_mode=True, **options)
    if apex == "on":
        raise ConfigError(
            "`apex: on` needs whole parameters on a GPU, but these are divided or elsewhere. Leave it at `auto`, "
            "which takes torch's fused AdamW."
        )
    return torch.optim.AdamW(groups, fused=True, **options)


def use_fused_layer_norms(model: nn.Module, *, apex: Policy = "auto") -> int:
    """Replace torch's layer norms by those of NVIDIA apex, in place, with the same parameters.

    `auto` leaves them: torch's kernel is fused as well, and no gain has been measured.

    Returns:
        How many.

    Raises:
        ConfigError: `on`, but apex cannot be used.
    """
    if apex != "on" or not wanted("apex", apex):
        return 0
    fused_layer_norm = import_module("apex.normalization").FusedLayerNorm
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.LayerNorm
    ]
    for parent, name, norm in found:
        fused = fused_layer_norm(norm.normalized_shape, eps=norm.eps, elementwise_affine=norm.elementwise_affine)
        for key, parameter in norm.named_parameters():
            setattr(fused, key, parameter)
        setattr(parent, name, fused.train(norm.training))
    return len(found)


def automatic_choices() -> dict[str, str]:
    """What `auto` chooses on this machine, each with its reason."""
    if not torch.cuda.is_available():
        return {
            "precision": "fp32: no GPU",
            "optimizer": "torch AdamW, fused: apex needs a GPU",
            "attention": "torch scaled_dot_product_attention: the CPU's flash kernel where no weights are dropped",
            "compile": "no: no GPU",
            "fp8": "no: no GPU",
        }
    capability = torch.cuda.get_device_capability()
    half = "bf16: the GPU has it" if capability >= (8, 0) else "fp16 with loss scaling: the GPU has no bf16"
    apex, triton, torchao = find_apex(), find_triton(), find_torchao()
    return {
        "precision": half,
        "optimizer": (
            "apex FusedAdam for whole parameters, torch AdamW, fused, for divided ones"
            if apex.usable
            else "torch AdamW, fused: apex is not usable"
        ),
        "attention": "torch scaled_dot_product_attention: flash, or memory-efficient with relative positions",
        "compile": "possible, off unless asked for" if triton.usable else f"no: triton is {triton.reason}",
        "fp8": "large linear maps in layers" if torchao.usable else f"no: torchao is {torchao.reason}",
    }


def _with_gpu(what: str) -> tuple[bool, str]:
    if torch.cuda.is_available():
        return True, f"{what}, on {torch.cuda.get_device_name()}"
    return False, f"{what}, but there is no CUDA device"


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _summary(name: str) -> str:
    try:
        summary = distribution(name).metadata["Summary"]
    except PackageNotFoundError:
        return ""
    return f" ({summary})" if summary else ""
