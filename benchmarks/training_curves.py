# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Losses in each precision over many steps, and the factor on a float16 loss: `python -m benchmarks.training_curves`.

    python -m benchmarks.training_curves --device cuda --steps 300 --out docs/training_curves.json

The published size trains through `trainer.strategy=nemo_sortformer` on drawn sessions of tones, in every precision
from the same weights and on the same batches, without dropout, so that rounding alone makes the losses differ. With
float8, all else is in bf16; where it cannot run it is left out with its reason. The JSON file has all losses and
factors, and images/ beside it a picture. `--device cpu --layers 1 --seconds 2 --batch 1 --steps 20` is the small form.

The factor doubles after `--growth-interval` steps without an overflow. The default of training is 2000; here it is
low, so that the factor finds its limit within the steps.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

import nemo_sortformer.distributed  # noqa: F401 - the strategy
from benchmarks.diarize import CONFIG
from benchmarks.timing import commit, machine, markdown
from benchmarks.training_step import Batch, make_batch, why_no_float8
from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.models.diarizer import SortformerDiarizer

PRECISIONS = {"fp32": {"dtype": "fp32"}, "bf16": {"dtype": "bf16"}, "fp16": {"dtype": "fp16"}}
PRECISIONS["float8"] = {"dtype": "bf16", "fp8": "on"}
COLORS = {"fp32": "#b0b0b0", "bf16": "#1f77b4", "fp16": "#d62728", "float8": "#2ca02c"}
Curve = dict[str, list[Any]]
"""`loss` of each step, the factor `scale` it was multiplied with, and whether the step was `skipped`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in each precision, print a table, write all numbers and the picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.training_curves", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=90.0, help="length of the recordings")
    parser.add_argument("--batch", type=int, default=4, help="recordings per step")
    parser.add_argument("--layers", type=int, default=18, help="layers of each encoder; 18 is the published size")
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate, the same at every step")
    parser.add_argument("--init-scale", type=float, default=65536.0, help="first factor on the float16 loss")
    parser.add_argument("--growth-interval", type=int, default=25, help="steps after which the factor doubles")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; the picture goes to images/ beside it")
    options = parser.parse_args(arguments)
    quiet_nemo(verbose=False)
    if options.device == "cpu":
        torch.set_num_threads(1)
    curves: dict[str, Curve] = {}
    left_out: dict[str, str] = {}
    for precision in options.precisions:
        missing = why_no_float8() if precision == "float8" else None
        if missing is None:
            curves[precision] = train(options, precision)
        else:
            left_out[precision] = missing
            print(f"{precision} is left out: {missing}.")
    if dist.is_initialized():
        dist.destroy_process_group()
    rows = summarize(curves)
    print(markdown(rows))
    given = sys.argv[1:] if arguments is None else arguments
    record = {
        "benchmark": "training_curves",
        "command": f"python -m benchmarks.training_curves {shlex.join(given)}",
        "commit": commit(),
        "machine": machine(),
        "left_out": left_out,
        "rows": rows,
        "curves": curves,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
    draw(curves, options.out.parent / "images" / f"{options.out.stem}.png")


def settings(options: argparse.Namespace, precision: str) -> DictConfig:
    """The published size with the layers asked for, without dropout and dither, and with the precision."""
    model = OmegaConf.to_container(OmegaConf.load(CONFIG).model)
    for part in ("encoder", "transformer_encoder", "sortformer_modules"):
        model[part] = {key: 0.0 if "dropout" in key else value for key, value in model[part].items()}
    model["preprocessor"] = {"dither": 0.0}
    model["encoder"]["n_layers"] = model["transformer_encoder"]["num_layers"] = options.layers
    scaling = {"fp16_init_scale": options.init_scale, "fp16_growth_interval": options.growth_interval}
    model["parallel"] = scaling | PRECISIONS[precision]
    model["optim"] = {"name": "adamw", "lr": options.lr}
    for key in ("train_ds", "validation_ds", "test_ds"):
        del model[key]
    return OmegaConf.create(model)


class Batches(torch.utils.data.Dataset):
    """A drawn batch for each step, the same ones in every precision."""

    def __init__(self, steps: int, size: int, seconds: float) -> None:
        self.steps, self.size, self.seconds = steps, size, seconds

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return make_batch(self.size, self.seconds, "cpu", seed=index)


class Watch(Callback):
    """Keeps the loss of each step and what became of its factor, without a wait for the device."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.scales: list[float] = []
        self.skipped: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """The factor before the step changes it."""
        scaler = trainer.precision_plugin.scaler
        if scaler is not None:
            self.scales.append(scaler.scale)

    def on_train_batch_end(self, trainer: Trainer, _model: object, outputs: Mapping[str, Any], *_: object) -> None:
        """The loss, without the factor."""
        self.losses.append(outputs["loss"].detach().clone())
        if trainer.precision_plugin.scaler is not None:
            self.skipped.append(trainer.precision_plugin.left_out_step)


def train(options: argparse.Namespace, precision: str) -> Curve:
    """Train from the first weights; losses and factors of all steps."""
    watch = Watch()
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        strategy="nemo_sortformer",
        max_steps=options.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    torch.manual_seed(0)
    model = SortformerDiarizer(cfg=settings(options, precision), trainer=trainer)
    batches = Batches(options.steps, options.batch, options.seconds)
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    losses = [float(f"{loss:.6g}") for loss in torch.stack(watch.losses).tolist()]
    return {"loss": losses, "scale": watch.scales, "skipped": watch.skipped}


def summarize(curves: Mapping[str, Curve]) -> list[dict[str, object]]:
    """One line per precision: where its loss begins and ends, how far it is from the first one's, the factor."""
    reference = np.array(next(iter(curves.values()))["loss"])
    tail = max(1, len(reference) // 10)
    rows: list[dict[str, object]] = []
    for precision, curve in curves.items():
        loss = np.array(curve["loss"])
        off = np.abs(loss - reference) / reference
        row: dict[str, object] = {"precision": precision, "steps": len(loss), "first loss": float(loss[0])}
        row[f"mean of the last {tail}"] = float(loss[-tail:].mean())
        row |= {"off at the median": float(np.median(off)), "off at most": float(off.max())}
        row["steps left out"] = sum(curve["skipped"]) if curve["scale"] else None
        row["factors"] = f"{min(curve['scale']):g} to {max(curve['scale']):g}" if curve["scale"] else None
        rows.append(row)
    return rows


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Losses one over the other, their distance to the first, and the factor with the steps that are left out."""
    from matplotlib.figure import Figure

    scaled = {name: curve for name, curve in curves.items() if curve["scale"]}
    figure = Figure(figsize=(13 if scaled else 9, 3.8), dpi=110, layout="constrained")
    losses, distances, *rest = figure.subplots(1, 3 if scaled else 2)
    reference, first = next((name, np.array(curve["loss"])) for name, curve in curves.items())
    steps = np.arange(1, len(first) + 1)
    for name, curve in curves.items():
        loss = np.array(curve["loss"])
        style: dict[str, Any] = {"color": COLORS[name], "label": name}
        losses.plot(steps, loss, linewidth=4.0 if name == reference else 1.1, **style)
        if name != reference:
            distances.plot(steps, 100 * (loss - first) / first, linewidth=1.0, **style)
    losses.set(title="Loss", ylabel="loss of the step's batch")
    distances.set(title=f"Distance to {reference}", ylabel=f"loss above that of {reference}, %")
    distances.axhline(0, color=COLORS[reference], linewidth=2.0, zorder=0)
    for ax in rest:
        for name, curve in scaled.items():
            scale, skipped = np.array(curve["scale"]), np.array(curve["skipped"])
            ax.step(steps, scale, where="mid", color=COLORS[name], label=name)
            ax.plot(steps[skipped], scale[skipped], "kx", label=f"left out: {skipped.sum()} steps")
        ax.set_yscale("log", base=2)
        ax.set(title="Factor on the loss", ylabel="factor of the step")
    for ax in (losses, distances, *rest):
        ax.set(xlabel="step", xlim=(0.5, len(first) + 0.5))
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
