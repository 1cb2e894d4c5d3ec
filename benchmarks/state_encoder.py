# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of the state encoders beside NeMo's, same weights: `python -m benchmarks.state_encoder`.

The published size, 18 layers of width 192, in one process and on one thread of a CPU. The outputs of the two
Transformers are compared first. "memory" is what one call needs above what was there before it, gradients included. A
ratio above one is in favour of our Transformer; the SortFormer encoder of the same size stands beside it to show what
its convolutions, positions and label estimates cost.
"""

import argparse
from functools import partial

import torch
from nemo.collections.asr.modules.transformer.transformer_encoders import TransformerEncoder
from torch import Tensor, nn

from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder, TransformerStateEncoder

PUBLISHED = {"num_layers": 18, "hidden_size": 192, "inner_size": 768, "num_attention_heads": 8}
DROPOUT = {"attn_score_dropout": 0.5, "attn_layer_dropout": 0.5, "ffn_dropout": 0.5}
FRAMES_PER_SECOND = 12.5


def main() -> None:
    """Compare the outputs, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[90.0, 60.0], help="length of each recording")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dropout", action="store_true", help="measure training with the published dropout as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    states, mask = make_batch(arguments.seconds, arguments.device)

    cases = [("forward", {}, forward), ("forward + backward", {}, forward_backward)]
    if arguments.dropout:
        cases.append(("forward + backward, dropout 0.5", DROPOUT, forward_backward))
    rows = []
    for case, dropout, step in cases:
        encoders = build_encoders(dropout, arguments.device)
        check_equal(encoders["nemo"], encoders["ours"], states, mask)
        calls = {name: partial(step, encoder, states, mask) for name, encoder in encoders.items()}
        seconds = best_seconds(calls, arguments.rounds)
        memory = {name: peak_bytes(call) for name, call in calls.items()}
        rows.append(
            {
                "case": case,
                "NeMo [s]": seconds["nemo"],
                "Transformer [s]": seconds["ours"],
                "time ratio": seconds["nemo"] / seconds["ours"],
                "SortFormer [s]": seconds["sortformer"],
                "NeMo [MB]": memory["nemo"] / 1e6,
                "Transformer [MB]": memory["ours"] / 1e6,
                "memory ratio": memory["nemo"] / memory["ours"] if memory["ours"] else None,
                "SortFormer [MB]": memory["sortformer"] / 1e6,
            }
        )
    report("state_encoder", rows, recording_seconds=arguments.seconds, rounds=arguments.rounds)


def make_batch(seconds: list[float], device: str) -> tuple[Tensor, Tensor]:
    """Random states (batch, frames, width) and the mask (batch, frames) of recordings of the given lengths."""
    lengths = torch.tensor([round(length * FRAMES_PER_SECOND) for length in seconds])
    num_frames = int(lengths.max())
    torch.manual_seed(0)
    states = torch.randn(len(seconds), num_frames, PUBLISHED["hidden_size"])
    return states.to(device), lengths_to_mask(lengths, num_frames).to(device)


def build_encoders(dropout: dict[str, float], device: str) -> dict[str, nn.Module]:
    """NeMo's encoder, ours with its weights, and a SortFormer encoder of the same size."""
    torch.manual_seed(0)
    theirs, ours = TransformerEncoder(**PUBLISHED, **dropout), TransformerStateEncoder(**PUBLISHED, **dropout)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    sortformer = SortformerEncoder(**PUBLISHED, **{"dropout": 0.0, **dropout})
    return {"nemo": theirs.to(device), "ours": ours.to(device), "sortformer": sortformer.to(device)}


def forward(encoder: nn.Module, states: Tensor, mask: Tensor) -> None:
    """One pass, as at inference."""
    with torch.inference_mode():
        encoder.eval()(encoder_states=states, encoder_mask=mask)


def forward_backward(encoder: nn.Module, states: Tensor, mask: Tensor) -> None:
    """One training step without the optimizer."""
    encoder.train().zero_grad()
    encoder(encoder_states=states, encoder_mask=mask).square().mean().backward()


def check_equal(theirs: nn.Module, ours: nn.Module, states: Tensor, mask: Tensor) -> None:
    """Stop where the two do not agree on the valid frames: a benchmark of another function says nothing."""
    with torch.inference_mode():
        output, expected = (
            encoder.eval()(encoder_states=states, encoder_mask=mask)[mask] for encoder in (ours, theirs)
        )
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


if __name__ == "__main__":
    main()
