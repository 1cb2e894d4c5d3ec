# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What sorting inside the encoder costs, and what more slots cost: `python -m benchmarks.encoder_cost`.

Encoders of one size, on the same states, in turns in one process on one thread: NeMo's Transformer, the same one on
fused attention, the SortFormer encoder without feedback (a Transformer with convolutions and rotary positions), with
feedback of sorted estimates by linear maps, and with the first layer's estimates from affinities. A step is forward
and backward over all outputs. All numbers are ratios: to the plain Transformer on fused attention, where nothing else
is said. The clock on a CPU is that of the thread, which stands still while others have the processor. Memory is what a
step keeps for its backward pass.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from nemo.collections.asr.modules.transformer.transformer_encoders import TransformerEncoder
from torch import Tensor

from benchmarks.page_blocks import fill_blocks
from benchmarks.timing import best_seconds, markdown, report
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder, TransformerStateEncoder

EMBEDDING_DIM = 64
SORTED: dict[str, dict[str, object]] = {
    "no feedback": {"feedback": False},
    "sorted feedback": {},
    "feedback from affinities": {"affinity_layers": 1},
}
PLAIN, NEMO = "plain Transformer", "NeMo's Transformer"
Name = tuple[str, int]
Calls = dict[Name, Callable[[], object]]


class NemoTransformer(TransformerEncoder):
    """NeMo's own, to be called as ours are; it estimates no labels."""

    def forward_with_labels(self, states: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The states, shape (batch, frames, width), and no logits."""
        return self(encoder_states=states, encoder_mask=mask), []


Encoder = NemoTransformer | TransformerStateEncoder | SortformerEncoder


def main() -> None:
    """Measure all sizes, print a table, and write it into a page where one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--slots", type=int, nargs="+", default=[1, 4, 8, 16], help="numbers of slots; 4 is among them"
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 500, 1500], help="frames of each sequence")
    parser.add_argument("--batch-frames", type=int, default=2000, help="frames of a batch, about")
    parser.add_argument("--hidden-size", type=int, default=192, help="width")
    parser.add_argument("--layers", type=int, default=6, help="layers")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the shortest time is taken")
    parser.add_argument("--causal", action="store_true", help="encoders that do not know the future")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--page", type=Path, help="a page whose block `<!-- encoder_cost: table -->` is filled")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = {"hidden_size": arguments.hidden_size, "num_layers": arguments.layers, "causal": arguments.causal}
    rows = []
    for frames in arguments.frames:
        batch = max(1, math.ceil(arguments.batch_frames / frames))
        forwards, steps = make_calls(arguments.slots, batch, frames, arguments.device, **size)
        rows += ratios(frames, forwards, steps, arguments.rounds)
    report("encoder_cost", rows, **size, batch_frames=arguments.batch_frames, rounds=arguments.rounds)
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        page = fill_blocks(page, "encoder_cost", {"table": markdown([page_row(row) for row in rows])})
        arguments.page.write_text(page, encoding="utf-8")


def make_calls(
    slots: list[int], batch: int, frames: int, device: str, *, hidden_size: int, num_layers: int, causal: bool
) -> tuple[Calls, Calls]:
    """Forward passes and training steps by encoder and number of slots (0 where there are none)."""
    torch.manual_seed(0)
    states = torch.randn(batch, frames, hidden_size, device=device)
    lengths = torch.full((batch,), frames)
    lengths[-1] = frames * 3 // 4
    mask = lengths_to_mask(lengths, frames).to(device)
    embeddings = torch.nn.functional.normalize(torch.randn(batch, frames, EMBEDDING_DIM, device=device), dim=-1)
    same = {"num_layers": num_layers, "hidden_size": hidden_size, "inner_size": 4 * hidden_size}
    same |= {"num_attention_heads": 4, "pre_ln": True}
    encoders: dict[Name, Encoder] = {
        (NEMO, 0): NemoTransformer(**same, mask_future=causal, hidden_act="gelu"),
        (PLAIN, 0): TransformerStateEncoder(**same, mask_future=causal, hidden_act="gelu"),
    }
    for name, settings in SORTED.items():
        for number in [0] if name == "no feedback" else slots:
            encoder = SortformerEncoder(**same, num_labels=max(number, 1), causal=causal, dropout=0.0, **settings)
            encoders[name, number] = encoder
    forwards: Calls = {}
    steps: Calls = {}
    for key, encoder in encoders.items():
        given = {"embeddings": embeddings} if getattr(encoder, "affinity_layers", 0) else {}
        forwards[key], steps[key] = calls_of(encoder.to(device), states, mask, given)
    return forwards, steps


def calls_of(
    encoder: Encoder, states: Tensor, mask: Tensor, given: Mapping[str, Tensor]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """One pass as at inference, and one training step without the optimizer; embeddings get a gradient, too."""

    def forward() -> None:
        with torch.inference_mode():
            encoder.eval().forward_with_labels(states, mask, **given)

    def step() -> None:
        encoder.train().zero_grad()
        learnt = {name: value.detach().requires_grad_() for name, value in given.items()}
        output, labels = encoder.forward_with_labels(states, mask, **learnt)
        loss = output.square().mean()
        for logits in labels:
            loss = loss + logits.square().mean()
        loss.backward()

    return forward, step


def ratios(frames: int, forwards: Calls, steps: Calls, rounds: int) -> list[dict[str, object]]:
    """Rows of the table for one length."""
    clock = time.perf_counter if torch.cuda.is_initialized() else time.thread_time
    forward, step = (by_key(best_seconds(by_text(calls), rounds, clock=clock)) for calls in (forwards, steps))
    memory = {key: kept_bytes(call) for key, call in steps.items()}
    plain, nemo = (PLAIN, 0), (NEMO, 0)
    rows = []
    for encoder, slots in forwards:
        key = (encoder, slots)
        rows.append(
            {
                "frames": frames,
                "encoder": encoder,
                "slots": slots or None,
                "forward [ms]": 1e3 * forward[key],
                "step [ms]": 1e3 * step[key],
                "kept [MB]": memory[key] / 1e6,
                "forward ratio": forward[key] / forward[plain],
                "step ratio": step[key] / step[plain],
                "memory ratio": memory[key] / memory[plain],
                "step / NeMo": step[key] / step[nemo],
                "memory / NeMo": memory[key] / memory[nemo],
                "forward / 4 slots": forward[key] / forward[encoder, 4] if slots else None,
                "step / 4 slots": step[key] / step[encoder, 4] if slots else None,
            }
        )
    return rows


def kept_bytes(step: Callable[[], object]) -> int:
    """What a step keeps for its backward pass, each storage once, parameters among them.

    The growth of the process would say more of the allocator than of the encoder.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no later one gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())


def page_row(row: Mapping[str, object]) -> dict[str, object]:
    """What of a row is for readers: seconds of one machine are not."""
    return {name: value for name, value in row.items() if not name.endswith("]")}


def by_text(calls: Calls) -> dict[str, Callable[[], object]]:
    """The same under names that a timer takes."""
    return {f"{name}|{slots}": call for (name, slots), call in calls.items()}


def by_key(seconds: Mapping[str, float]) -> dict[Name, float]:
    """Back again."""
    return {(name.split("|")[0], int(name.split("|")[1])): value for name, value in seconds.items()}


if __name__ == "__main__":
    main()
