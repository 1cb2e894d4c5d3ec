# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the acoustic encoder of a joint model has made for its diarization half, for its text heads.

Both halves hear the same recording, and the encoder takes most of the time. What it made is used again only where the
mel features are the same, so that it does not matter who asks: a recording that is cut for the text heads has other
features, and is encoded anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOST_BYTES = 2**29
"""Kept at once; the oldest go first. A recording of 30 seconds takes 1.7 MB at the published size."""
_TOLERANCE = 1e-3
"""Mel features of one recording differ by rounding with what it is padded to."""


class _Encoded(NamedTuple):
    """What the encoder was given and made of one recording; valid hops and frames only."""

    mel: Tensor
    """Shape (bands, hops)."""
    features: Tensor
    """Shape (width, frames)."""

    @property
    def num_bytes(self) -> int:
        return int(sum(part.numel() * part.element_size() for part in self))


class RememberedFeatures:
    """Listens to an acoustic encoder while it runs, and gives what it said of the same mel features before."""

    def __init__(self) -> None:
        self._kept: deque[_Encoded] = deque()

    def listen(self, module: nn.Module, args: Any, given: dict[str, Any], made: tuple[Tensor, Tensor]) -> None:
        """A forward hook: keep what is said in the model's own precision."""
        mel, lengths = given.get("audio_signal"), given.get("length")
        if mel is None or lengths is None or torch.is_autocast_enabled(mel.device.type):
            return
        features, frames = made
        for row, hops, said, count in zip(mel, lengths.tolist(), features, frames.tolist(), strict=True):
            self._kept.append(_Encoded(row[:, :hops].clone(), said[:, :count].clone()))
        while sum(one.num_bytes for one in self._kept) > MOST_BYTES:
            self._kept.popleft()

    def take(self, mel: Tensor, mel_lengths: Tensor) -> tuple[Tensor, Tensor] | None:
        """The encoder's output for a batch, each recording once; None where it has not heard all of them.

        Args:
            mel: features, shape (batch, bands, hops).
            mel_lengths: valid hops per recording, shape (batch,).

        Returns:
            Features, shape (batch, width, frames), zero past each length, and the valid frames, shape (batch,).
        """
        rows = [row[:, :hops] for row, hops in zip(mel, mel_lengths.tolist(), strict=True)]
        places = [next((i for i, one in enumerate(self._kept) if _same(one.mel, row)), None) for row in rows]
        if None in places:
            return None
        found = [self._kept[place] for place in places if place is not None]
        self._kept = deque(one for i, one in enumerate(self._kept) if i not in places)
        features = nn.utils.rnn.pad_sequence([one.features.T for one in found], batch_first=True)
        return features.mT, torch.tensor([one.features.shape[1] for one in found], device=mel.device)


@contextmanager
def remembered_features(encoder: nn.Module) -> Iterator[RememberedFeatures]:
    """Listen to an encoder inside the `with`, and forget what it said afterwards."""
    memory = RememberedFeatures()
    hook = encoder.register_forward_hook(memory.listen, with_kwargs=True)
    try:
        yield memory
    finally:
        hook.remove()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=0, atol=_TOLERANCE))
