# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings of hours as samples that are read when they are asked for, so that they never lie in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nemo_sortformer.data.audio import audio_blocks, check_audio


class LongAudio:
    """A recording that is sliced like an array, `audio[first:last]`, and read forward as far as it is asked for.

    What lies before the last slice's beginning is forgotten; to slice there again reads from the start again. The
    whole file is read and checked once when this is made, as an error must not show up after hours of work.

    Args:
        path: the file.
        offset: where the recording begins in it, in seconds.
        duration: its length in seconds; None is to the end of the file.
        sample_rate: of the samples, in Hz.

    Raises:
        AudioError: the file cannot be read to the end, or has NaN in it.
    """

    def __init__(self, path: Path, *, offset: float = 0.0, duration: float | None = None, sample_rate: int) -> None:
        self._stretch: dict[str, Any] = {"offset": offset, "duration": duration, "sample_rate": sample_rate}
        self._path = path
        self._num_samples = check_audio(path, **self._stretch)
        self._rewind()

    def __len__(self) -> int:
        """Samples in all."""
        return self._num_samples

    def __getitem__(self, part: slice) -> np.ndarray:
        """The samples of a slice without a step, float32, shape (samples,)."""
        first, last, _ = part.indices(self._num_samples)
        if first < self._first:
            self._rewind()
        wanted = np.zeros(max(last - first, 0), dtype=np.float32)
        self._forget(first)
        while self._first + self._held < last:
            block = next(self._blocks, None)
            if block is None:
                break  # rounding: the last sample is silence
            self._parts.append(block)
            self._held += len(block)
            self._forget(first)
        place = self._first
        for block in self._parts:
            begin, end = max(place, first), min(place + len(block), last)
            if begin < end:
                wanted[begin - first : end - first] = block[begin - place : end - place]
            place += len(block)
        return wanted

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All samples at once, for whoever needs them so."""
        return self[:].astype(dtype or np.float32, copy=False)

    def _rewind(self) -> None:
        self._blocks: Iterator[np.ndarray] = audio_blocks(self._path, **self._stretch)
        self._parts: list[np.ndarray] = []
        self._first = 0
        self._held = 0

    def _forget(self, before: int) -> None:
        """Drop the blocks that end before a sample."""
        while self._parts and self._first + len(self._parts[0]) <= before:
            gone = len(self._parts.pop(0))
            self._first += gone
            self._held -= gone
