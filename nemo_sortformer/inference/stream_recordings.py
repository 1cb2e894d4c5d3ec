# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Whole recordings run as streams, as a model that was trained to stream wants them, in bounded memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nemo_sortformer.inference.partial_work import PartialWorkWarning
from nemo_sortformer.inference.stream import BatchedStreamer
from nemo_sortformer.inference.stream_features import know_beforehand
from nemo_sortformer.inference.stream_state import StreamError, StreamState
from nemo_sortformer.inference.windows import Outputs

if TYPE_CHECKING:
    from nemo_sortformer.inference.long_audio import LongAudio
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

BLOCK_SECONDS = 60.0
"""Audio taken in at once; so much work is lost at most when a run is killed."""


def stream_recordings(
    model: SortformerDiarizer,
    recordings: list[np.ndarray] | list[np.ndarray | LongAudio],
    *,
    latency: Any = None,
    block_seconds: float = BLOCK_SECONDS,
    on_blocks: Callable[[int, int], None] | None = None,
    path: Path | None = None,
    identity: Mapping[str, Any] | None = None,
) -> list[Outputs]:
    """Run recordings side by side, each as one stream.

    Where the model sets a level or normalizes its features by the recording, it is by the whole of it, as in NeMo.

    Args:
        model: the diarizer.
        recordings: samples at the model's rate, shape (samples,) each, or what can be sliced like them.
        latency: settings of the streams; the model's own where None.
        block_seconds: audio taken in at once.
        on_blocks: called with how many blocks of audio are done, and of how many.
        path: where the work on a single recording is kept, for a run that was stopped to go on; None keeps nothing.
            Whoever has the result removes the file.
        identity: what must be equal for that work to be used again, as strings and numbers.

    Returns:
        Probabilities of each recording, as from :func:`batch_outputs`; no embeddings.
    """
    streamer = BatchedStreamer(model, latency=latency, override_config={"assignment": "heads"})
    block = max(round(block_seconds * model.config.sample_rate), 1)
    longest = max((len(samples) for samples in recordings), default=0)
    total, done = -(-longest // block), 0
    probs: dict[Hashable, list[np.ndarray]] = {i: [] for i in range(len(recordings))}
    work = _Work(path, {"block": block, "samples": longest, **(identity or {})}) if len(recordings) == 1 else None
    kept = None if work is None else work.load()
    if kept is not None:
        try:
            streamer.open(0, state=kept[0])
            probs[0].append(kept[1])
            done = kept[2]
        except StreamError:  # of another model or other settings
            kept = None
    if kept is None:
        for i, samples in enumerate(recordings):
            streamer.open(i)
            streamer.open(i, state=know_beforehand(streamer.close(i), samples, model))
    for number in range(done, total):
        start = number * block
        pieces: dict[Hashable, np.ndarray] = {
            i: samples[start : start + block] for i, samples in enumerate(recordings) if start < len(samples)
        }
        for name, updates in streamer.push(pieces).items():
            probs[name].extend(update.probs for update in updates)
        if on_blocks is not None:
            on_blocks(number + 1, total)
        if work is not None and number + 1 < total:
            work.save(streamer.state(0), np.concatenate([*probs[0], np.zeros((0, model.num_slots))]), number + 1)
    for name in streamer.streams:
        probs[name].extend(update.probs for update in streamer.finish(name))
    return [Outputs(np.concatenate(parts).astype(np.float32), None) for parts in probs.values()]


class _Work:
    """The file with the work done on one recording."""

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path, self._identity = path, {key: str(value) for key, value in identity.items()}

    def load(self) -> tuple[StreamState, np.ndarray, int] | None:
        """The stream, its probabilities and its blocks so far; None where there is no such work."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            if found["identity"] != self._identity:
                return None
            return StreamState.from_dict(found["state"]), found["probs"].numpy(), int(found["blocks"])
        except Exception:  # cut short, or no such file, on which torch raises what it likes: the work begins anew
            return None

    def save(self, state: StreamState, probs: np.ndarray, blocks: int) -> None:
        """Write the file anew, whole or not at all; where it cannot be written, say so once and go on."""
        if self._path is None:
            return
        draft = self._path.with_name(f".{self._path.name}.part")
        content = {"identity": self._identity, "state": state.to_dict(), "probs": torch.from_numpy(probs)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content | {"blocks": blocks}, draft)
            draft.replace(self._path)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
            message = f"`{self._path}` cannot be written ({error}): if this run is stopped, it starts from the start."
            warnings.warn(message, PartialWorkWarning, stacklevel=3)
            self._path = None
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
