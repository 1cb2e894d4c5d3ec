# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time from probabilities to segments beside NeMo's, same settings: `python -m benchmarks.postprocessing`.

Four slots, one thread. "plain" is a threshold of 0.5; "tuned" has settings like those published for CALLHOME,
"reversed" like those for DIHARD 3, whose offset is above the onset. The segments are compared first, with a second of
silence before and a frame of silence after, which keep NeMo from its faults at the edges. A ratio above one is in our
favour.
"""

import argparse

import numpy as np
import torch
from nemo.collections.asr.parts.utils.vad_utils import ts_vad_post_processing
from torch import Tensor

from benchmarks.timing import best_seconds, report
from nemo_sortformer.functional.segments import active_segments

UNITS = 8  # frames of 80 ms, in NeMo's units of 10 ms
NAMES = ("onset", "offset", "pad_onset", "pad_offset", "min_duration_on", "min_duration_off")
SETTINGS = {
    "plain": (0.5, 0.5, 0.0, 0.0, 0.0, 0.0),
    "tuned": (0.53, 0.49, 0.23, 0.01, 0.42, 0.34),
    "reversed": (0.56, 1.0, 0.063, 0.002, 0.007, 0.151),
}


def main() -> None:
    """Compare the segments, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of which the shortest time is taken")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = []
    for minutes in arguments.minutes:
        probs = make_probs(round(minutes * 60 / 0.01 / UNITS), arguments.slots, arguments.seed)
        for name, values in SETTINGS.items():
            chosen = dict(zip(NAMES, values))
            segments, theirs = ours(probs, chosen), nemos(probs, chosen)
            check_equal(segments, theirs)
            best = best_seconds(
                {"ours": lambda p=probs, c=chosen: ours(p, c), "nemo": lambda p=probs, c=chosen: nemos(p, c)},
                arguments.rounds,
            )
            rows.append(
                {
                    "minutes": minutes,
                    "settings": name,
                    "segments": sum(map(len, segments)),
                    "ours ms": 1e3 * best["ours"],
                    "NeMo ms": 1e3 * best["nemo"],
                    "NeMo / ours": best["nemo"] / best["ours"],
                }
            )
    report("postprocessing", rows, slots=arguments.slots, seed=arguments.seed)


def make_probs(frames: int, slots: int, seed: int) -> Tensor:
    """Probabilities that wander and mostly stay near 0 or 1, as a model's do, shape (frames, slots)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(frames + 40, slots, generator=generator)
    mean = noise.T[:, None].unfold(2, 41, 1).mean(dim=3)[:, 0].T
    probs = torch.sigmoid(30 * mean + torch.randn(frames, slots, generator=generator))
    probs[: 1000 // (10 * UNITS) + 1] = 0
    probs[-1] = 0
    return probs


def ours(probs: Tensor, chosen: dict[str, float]) -> list[np.ndarray]:
    """All slots at once."""
    return active_segments(probs, frame_seconds=UNITS / 100, **chosen)


def nemos(probs: Tensor, chosen: dict[str, float]) -> list[Tensor]:
    """One slot after the other, as in NeMo's ``predlist_to_timestamps``."""
    return [ts_vad_post_processing(column, chosen, unit_10ms_frame_count=UNITS) for column in probs.unbind(dim=1)]


def check_equal(segments: list[np.ndarray], theirs: list[Tensor]) -> None:
    """Stop where the two do not agree: a benchmark of another function says nothing. NeMo's times are float32."""
    for slot, other in zip(segments, theirs, strict=True):
        np.testing.assert_allclose(slot, other.reshape(-1, 2).numpy(), rtol=0, atol=1e-3)


if __name__ == "__main__":
    main()
