# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training steps of our diarizer beside NeMo's, same size, batch and weights: `python -m benchmarks.training`.

A step is forward, loss, backward, clipping and AdamW on one batch that lies on the device. NeMo runs as its script
does: whole float32 parameters, with `--dtype bf16` under autocast. Ours runs through the engine of
`trainer.strategy=nemo_sortformer` on one process: with bf16, layers in bf16 over float32 main parameters. "memory" is
the peak of a step, without what the weights and the optimizer's state take before it. Ratios above one are in our
favour. `--layers 2 --seconds 8 --batch 1` is the small form for a CPU.

`--curve 300` prints the losses of ours in float32 and in `--dtype` over so many steps on drawn batches instead.
`--waits` counts the operations of a step that make the host wait for the GPU.
`--longest` doubles the length of a session at batch 1 until memory ends.
"""

import argparse
import json
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.utils import logging
from torch import Tensor, nn

from benchmarks.diarize import nemo_config
from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed.apply import apply, build_mesh
from nemo_sortformer.distributed.gradients import clip_by_norm
from nemo_sortformer.models.diarizer import SortformerDiarizer

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
HOP = 1280
LIMIT_SECONDS = 4 * 3600.0
WAITING = ("aten::_local_scalar_dense", "aten::item", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[90.0], help="lengths of the recordings")
    parser.add_argument("--batch", type=int, default=4, help="recordings per step")
    parser.add_argument("--layers", type=int, default=18, help="layers of each encoder; 18 is the published size")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    parser.add_argument("--recompute", action="store_true", help="ours with activation checkpointing as well")
    parser.add_argument("--compile", action="store_true", help="ours compiled as well")
    parser.add_argument("--curve", type=int, default=0, help="losses over so many steps instead")
    parser.add_argument("--waits", action="store_true", help="operations that make the host wait, instead")
    parser.add_argument("--longest", action="store_true", help="the longest session at batch 1, instead")
    arguments = parser.parse_args()
    logging.setLevel(logging.ERROR)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if arguments.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            run(arguments)
        finally:
            dist.destroy_process_group()


def run(arguments: argparse.Namespace) -> None:
    """Choose the measurement."""
    if arguments.curve:
        losses = {dtype: curve(arguments, dtype) for dtype in ("fp32", arguments.dtype)}
        print(json.dumps({"benchmark": "training curve", "steps": arguments.curve, "losses": losses}))
    elif arguments.waits:
        print(json.dumps({"benchmark": "training waits", "calls": waits(arguments)}))
    elif arguments.longest:
        rows = [{"model": name, "longest session [s]": longest(arguments, name)} for name in ("NeMo", "ours")]
        report("longest session", rows, dtype=arguments.dtype, layers=arguments.layers, device=arguments.device)
    else:
        rows = [compare(arguments, seconds) for seconds in arguments.seconds]
        settings = {"batch": arguments.batch, "layers": arguments.layers, "dtype": arguments.dtype, "seed": 0}
        report("training", rows, **settings, device=arguments.device, rounds=arguments.rounds)


def compare(arguments: argparse.Namespace, seconds: float) -> dict[str, object]:
    """One row: both models on one batch. They take turns, each alone in memory while its peak is taken."""
    batch = make_batch(arguments.batch, seconds, arguments.device)
    forms = {"NeMo": {}, "ours": {}}
    if arguments.recompute:
        forms["ours, recomputed"] = {"activation_checkpointing": True}
    if arguments.compile:
        forms["ours, compiled"] = {"compile": True}
    spent, memory = {}, {}
    for name, options in forms.items():
        step = make_step(arguments, name, **options)
        spent |= best_seconds({name: lambda step=step: step(batch)}, arguments.rounds)
        memory[name] = peak_bytes(lambda step=step: step(batch))
        del step
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    row: dict[str, object] = {"recordings [s]": seconds}
    for name in forms:
        row[f"{name} [recordings/s]"] = arguments.batch / spent[name]
        row[f"{name} [MB]"] = memory[name] / 1e6
    for name in list(forms)[1:]:
        row[f"{name}: speed ratio"] = spent["NeMo"] / spent[name]
        row[f"{name}: memory ratio"] = memory["NeMo"] / memory[name] if memory[name] else None
    return row


def make_step(arguments: argparse.Namespace, name: str, **options: object) -> Callable[[Batch], Tensor]:
    """A training step of NeMo's model or ours, with the same first weights; it returns the loss."""
    torch.manual_seed(0)
    cfg = nemo_config()
    cfg.encoder.n_layers = cfg.transformer_encoder.num_layers = arguments.layers
    theirs = SortformerEncLabelModel(cfg=cfg)
    if name == "NeMo":
        model: nn.Module = theirs.to(arguments.device).train()
        is_half = arguments.dtype == "bf16"

        def loss_of(batch: Batch) -> Tensor:
            audio, audio_lengths, targets, lengths = batch
            with torch.autocast(arguments.device, torch.bfloat16, enabled=is_half):
                probs = theirs.forward(audio_signal=audio, audio_signal_length=audio_lengths)
                return theirs._get_aux_train_evaluations(probs, targets, lengths)["loss"]
    else:
        ours = SortformerDiarizer(cfg=cfg)
        ours.load_state_dict(theirs.state_dict(), strict=False)
        del theirs
        model = ours.to(arguments.device).train()
        config = ParallelConfig(dtype=arguments.dtype, **options)
        apply(ours, config, build_mesh(config, arguments.device))

        def loss_of(batch: Batch) -> Tensor:
            return ours.compute_losses(batch)[0]

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=name != "NeMo")

    model._optimizer = optimizer  # NeMo's losses come with the learning rate

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        if name == "NeMo":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        else:
            clip_by_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def make_batch(size: int, seconds: float, device: str, seed: int = 0) -> Batch:
    """Noise, and four speakers who take turns in the targets."""
    generator = torch.Generator().manual_seed(seed)
    frames = int(seconds * 16000) // HOP
    audio = 0.1 * torch.randn(size, frames * HOP, generator=generator)
    turn = torch.arange(frames) * 4 // frames
    targets = torch.nn.functional.one_hot(turn, 4).float().expand(size, -1, -1).contiguous()
    lengths = torch.full((size,), frames)
    return audio.to(device), (lengths * HOP).to(device), targets.to(device), lengths.to(device)


def curve(arguments: argparse.Namespace, dtype: str) -> list[float]:
    """Losses of ours over many steps, each on another batch of a few that come round."""
    step = make_step(argparse.Namespace(**{**vars(arguments), "dtype": dtype}), "ours")
    batches = [make_batch(arguments.batch, arguments.seconds[0], arguments.device, seed) for seed in range(8)]
    return [float(step(batches[number % len(batches)])) for number in range(arguments.curve)]


def waits(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """How often a step of either model does what makes the host wait; the first steps are not counted."""
    batch = make_batch(arguments.batch, arguments.seconds[0], arguments.device)
    found = {}
    for name in ("NeMo", "ours"):
        step = make_step(arguments, name)
        for _ in range(2):
            step(batch)
        with torch.profiler.profile() as profile:
            step(batch)
        counts = {event.key: event.count for event in profile.key_averages()}
        found[name] = {key: counts.get(key, 0) for key in WAITING}
    return found


def longest(arguments: argparse.Namespace, name: str) -> float:
    """Seconds of the longest session that a step fits into memory, to a tenth; a GPU only."""
    if arguments.device != "cuda":
        raise SystemExit("--longest fills the memory of a GPU: add --device cuda.")
    step = make_step(arguments, name)

    def fits(seconds: float) -> bool:
        try:
            step(make_batch(1, seconds, arguments.device))
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    low = 30.0
    while low < LIMIT_SECONDS and fits(2 * low):
        low *= 2
    high = 2 * low
    while high / low > 1.1:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


if __name__ == "__main__":
    main()
