# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""When a CTC model says its words.

NeMo 3.0.0 gives a token the time from where the token before it begins to where it begins itself, one token too early:
a word after a pause seems to begin before the pause, in what another speaker says. Here the frames of the best path
are asked instead; which tokens make a word is still NeMo's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def ctc_decoding(model: Any) -> Any:
    """The greedy CTC decoding that a model uses; None where it decodes otherwise."""
    from nemo.collections.asr.parts.submodules.ctc_decoding import AbstractCTCDecoding

    name = "ctc_decoding" if getattr(model, "cur_decoder", None) == "ctc" else "decoding"
    decoding = getattr(model, name, None)
    if not isinstance(decoding, AbstractCTCDecoding):
        return None
    return decoding if str(decoding.cfg.get("strategy", "greedy")).startswith("greedy") else None


def token_frames(path: np.ndarray, blank: int) -> np.ndarray:
    """Where the tokens of a best path are.

    Args:
        path: the best token of each frame, shape (frames,).
        blank: the token that stands for none.

    Returns:
        First frame of each token, and the frame behind its last, shape (tokens, 2).

    Example:
        >>> token_frames(np.array([9, 1, 1, 9, 1, 2, 2, 9]), blank=9).tolist()
        [[1, 3], [4, 5], [5, 7]]
    """
    edges = np.flatnonzero(np.diff(path, prepend=blank, append=blank))
    firsts = edges[edges < len(path)]
    firsts = firsts[path[firsts] != blank]
    ends = edges[np.searchsorted(edges, firsts, side="right")]
    return np.stack((firsts, ends), axis=1)


def corrected_words(hypothesis: Any, blank: int, frame_seconds: float) -> list[dict[str, Any]] | None:
    """The words of a hypothesis with the times of their tokens.

    Args:
        hypothesis: what NeMo's greedy CTC decoding gives with times.
        blank: the token that stands for none.
        frame_seconds: from one frame to the next.

    Returns:
        Rows of `word`, `start` and `end` in seconds; None where the hypothesis does not hold what it takes.
    """
    stamps = hypothesis.timestamp
    words: Sequence[Mapping[str, Any]] = stamps.get("word") or ()
    letters: Sequence[Mapping[str, Any]] = stamps.get("char") or ()
    path = getattr(hypothesis, "y_sequence", None)
    if path is None or not words:
        return None
    path = np.asarray(path)
    path = path.argmax(axis=-1) if path.ndim == 2 else path
    length = int(hypothesis.length) if hypothesis.length is not None else 0
    frames = token_frames(path[:length] if length > 0 else path, blank)
    if len(frames) != len(letters):
        return None
    starts = np.array([int(letter["start_offset"]) for letter in letters])
    ends = np.array([int(letter["end_offset"]) for letter in letters])
    rows = []
    for word in words:
        first = int(np.searchsorted(starts, int(word["start_offset"])))
        last = int(np.searchsorted(ends, int(word["end_offset"]), side="right")) - 1
        if not first <= last < len(frames):
            return None
        rows.append(
            {
                "word": word["word"],
                "start": frames[first, 0] * frame_seconds,
                "end": frames[last, 1] * frame_seconds,
            }
        )
    return rows
