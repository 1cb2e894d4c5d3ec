# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What each speaker has sounded like so far: played before a window, it tells which column of that window is whose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CLEAN = 0.4
"""By so much a speaker's probability must be above that of all others in every frame that is remembered."""
_SHORTEST = 8
"""Frames of the shortest stretch that says who speaks."""
_LONGEST = 25
"""Frames of the longest: several places in the recording say more than one."""


class _Snippet(NamedTuple):
    score: float
    """How sure the model was."""
    place: int
    """Frame in the recording."""
    mel: Tensor
    """Shape (bands, hops)."""
    probs: np.ndarray
    """Shape (frames, slots), in the order of the recording."""


class SpeakerMemory:
    """The clearest short stretches of each speaker, in order of arrival, up to a length per speaker.

    Args:
        num_slots: speakers that the model tells apart.
        frames_per_speaker: output frames kept of each.
        hops_per_frame: mel frames per output frame.
    """

    def __init__(self, num_slots: int, *, frames_per_speaker: int, hops_per_frame: int) -> None:
        self._kept: list[list[_Snippet]] = [[] for _ in range(num_slots)]
        self._most = frames_per_speaker
        self._hops = hops_per_frame

    def recall(self) -> tuple[Tensor | None, np.ndarray | None]:
        """What is to be played before a window.

        Returns:
            Mel features (bands, hops) and the probabilities (frames, slots) known of them; None and None at first.
        """
        snippets = [snippet for kept in self._kept for snippet in kept]
        if not snippets:
            return None, None
        return torch.cat([s.mel for s in snippets], dim=1), np.concatenate([s.probs for s in snippets])

    def remember(self, mel: Tensor, probs: np.ndarray, *, place: int) -> None:
        """Keep what is clearer than what is kept.

        Args:
            mel: features of some frames, shape (bands, hops).
            probs: their probabilities in the order of the recording, shape (frames, slots).
            place: where in the recording their first frame is.
        """
        frames = min(len(probs), mel.shape[1] // self._hops)  # the last frame may lack hops
        for slot in range(len(self._kept)):
            others = np.delete(probs[:frames], slot, axis=1).max(axis=1, initial=0.0)
            margin = probs[:frames, slot] - others
            found = [
                _Snippet(
                    float(margin[first:last].mean()),
                    place + first,
                    mel[:, first * self._hops : last * self._hops].clone(),
                    probs[first:last],
                )
                for first, last in _runs(margin > _CLEAN)
            ]
            ranked = sorted([*self._kept[slot], *found], key=lambda snippet: (-snippet.score, snippet.place))
            kept, total = [], 0
            for snippet in ranked:
                if total + len(snippet.probs) <= self._most:
                    kept.append(snippet)
                    total += len(snippet.probs)
            self._kept[slot] = sorted(kept, key=lambda snippet: snippet.place)


def _runs(clean: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of frames that are all clean, as first and one behind the last, cut where they are too long."""
    edges = np.flatnonzero(np.diff(clean.astype(np.int8), prepend=0, append=0))
    pieces = [
        (first, min(first + _LONGEST, int(end)))
        for start, end in edges.reshape(-1, 2)
        for first in range(int(start), int(end), _LONGEST)
    ]
    return [(first, last) for first, last in pieces if last - first >= _SHORTEST]
