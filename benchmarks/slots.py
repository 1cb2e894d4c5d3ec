# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time per training step by the number of class slots: `python -m benchmarks.slots`.

One labeler per number of slots, alike but for the slots, on the same embeddings, with labels of as many classes as
there are slots. A step is forward, loss (sorted labels alone, and with half of it permutation-invariant), backward and
AdamW. All take turns in one process on one thread. NeMo's loss enumerates the orders of the slots, 40 320 of them at
eight, so that it cannot take part.
"""

import argparse
from collections.abc import Callable

import torch
from omegaconf import OmegaConf

from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.models.labeler import SortformerLabeler

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 8, 16], help="numbers of slots; the first is 1")
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--frames", type=int, default=500, help="frames of each")
    parser.add_argument("--hidden-size", type=int, default=192, help="width of the encoder")
    parser.add_argument("--layers", type=int, default=6, help="layers of the encoder")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = (arguments.batch, arguments.frames, arguments.hidden_size)
    rows = []
    for losses, weights in {"sorted": (1.0, 0.0), "sorted + permutation-invariant": (0.5, 0.5)}.items():
        steps = {
            str(slots): make_step(slots, *size, num_layers=arguments.layers, weights=weights, device=arguments.device)
            for slots in arguments.slots
        }
        seconds = best_seconds(steps, arguments.rounds)
        memory = {slots: peak_bytes(step) for slots, step in steps.items()}
        first = str(arguments.slots[0])
        rows += [
            {
                "loss": losses,
                "slots": slots,
                "step [s]": seconds[slots],
                f"time / {first} slots": seconds[slots] / seconds[first],
                "memory [MB]": memory[slots] / 1e6,
            }
            for slots in steps
        ]
    report("slots", rows, batch=size[0], frames=size[1], hidden_size=size[2], layers=arguments.layers)


def make_step(
    slots: int,
    batch: int,
    frames: int,
    hidden_size: int,
    *,
    num_layers: int,
    weights: tuple[float, float],
    device: str,
) -> Callable[[], None]:
    """A training step of a model with so many slots; `weights` are those of the two losses."""
    torch.manual_seed(0)
    encoder = {
        "_target_": "nemo_sortformer.modules.SortformerEncoder",
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "inner_size": 4 * hidden_size,
        "num_attention_heads": 4,
    }
    loss = {"sort_weight": weights[0], "pil_weight": weights[1], "layer_weight": 0.1}
    settings = {"input_dim": 80, "max_num_of_classes": slots, "encoder": encoder, "loss": loss}
    model = SortformerLabeler(cfg=OmegaConf.create(settings)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = make_batch(slots, batch, frames, device)

    def step() -> None:
        optimizer.zero_grad()
        model.compute_losses(data)[0].backward()
        optimizer.step()

    return step


def make_batch(slots: int, batch: int, frames: int, device: str) -> Batch:
    """The same embeddings whatever the slots; labels in which all slots take turns, over and over again."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, frames, 80, generator=generator)
    turn = torch.arange(frames) // max(frames // (4 * slots), 1) % slots
    targets = torch.nn.functional.one_hot(turn, slots).float().expand(batch, -1, -1)
    lengths = torch.full((batch,), frames)
    return embeddings.to(device), lengths.to(device), targets.contiguous().to(device), lengths.to(device)


if __name__ == "__main__":
    main()
