# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From the model's outputs to named segments: who is who, how many there may be, and when each speaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.segments import active_segments
from nemo_sortformer.inference.windows import Outputs


@dataclass(frozen=True, kw_only=True)
class SpeakerLimits:
    """What is known about the number of speakers in a recording. None is not known."""

    num_speakers: int | None = None
    """Exactly so many."""
    min_speakers: int | None = None
    max_speakers: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_speakers", "min_speakers", "max_speakers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {value}. Leave it out if it is not known.")
        if self.num_speakers is not None and (self.min_speakers is not None or self.max_speakers is not None):
            raise ConfigError("`num_speakers` fixes the number: give it, or `min_speakers` and `max_speakers`.")
        if self.min_speakers is not None and self.max_speakers is not None and self.min_speakers > self.max_speakers:
            raise ConfigError(
                f"`min_speakers` must be at most `max_speakers`, but they are {self.min_speakers} and "
                f"{self.max_speakers}."
            )

    @property
    def lowest(self) -> int | None:
        """Fewest speakers allowed."""
        return self.num_speakers or self.min_speakers

    @property
    def highest(self) -> int | None:
        """Most speakers allowed."""
        return self.num_speakers or self.max_speakers

    def to_dict(self) -> dict[str, int]:
        """The limits that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


def check_limits(limits: SpeakerLimits, config: InferenceConfig, *, num_slots: int) -> None:
    """Stop before the first recording where the label heads cannot give what is asked for.

    Raises:
        ConfigError: more speakers are demanded than there are slots, and the slots name the speakers.
    """
    if config.assignment == "heads" and limits.lowest is not None and limits.lowest > num_slots:
        raise ConfigError(
            f"`num_speakers` and `min_speakers` must be at most {num_slots}, the slots of the model, but "
            f"{limits.lowest} are asked for. Set `assignment` to `clustering` if the model has embeddings."
        )


def speaker_probs(outputs: Outputs, config: InferenceConfig, limits: SpeakerLimits) -> np.ndarray:
    """Speech probabilities per speaker, shape (frames, speakers), by the way that `config.assignment` names.

    With `heads` the model's columns are the speakers. Where `limits` allow fewer, the columns with most speech stay,
    and the speech of the others goes to the likeliest of those that stay, frame by frame: it was heard, whoever it
    was. More speakers than the model hears are never invented.

    Raises:
        ConfigError: clustering is asked of a model without embeddings.
    """
    probs = outputs.probs
    if config.assignment == "clustering":
        if outputs.embeddings is None:
            raise ConfigError(
                "`assignment` is `clustering`, but the model has no affinity embeddings. Set it to `heads`, or train "
                "with `model.affinity`."
            )
        from nemo_sortformer.inference.clustering import cluster_probabilities

        probs = cluster_probabilities(
            outputs.embeddings, probs, config.clustering, activity=outputs.activity, **limits.to_dict()
        )
    elif limits.highest is not None and limits.highest < probs.shape[1]:
        probs = keep_loudest(probs, limits.highest)
    if config.median_frames > 1:
        from scipy.ndimage import median_filter

        probs = median_filter(probs, size=(config.median_frames, 1), mode="nearest")
    return np.ascontiguousarray(probs, dtype=np.float32)


def keep_loudest(probs: np.ndarray, count: int) -> np.ndarray:
    """Silence all but the `count` columns with most speech; at each frame the likeliest of these takes over the rest.

    Example:
        >>> keep_loudest(np.array([[0.9, 0.0], [0.8, 0.0], [0.1, 0.7]]), 1).tolist()
        [[0.9, 0.0], [0.8, 0.0], [0.7, 0.0]]
    """
    return _hand_over(probs, np.sort(np.argsort(-probs.sum(axis=0), kind="stable")[:count]))


def prune_phantoms(
    probs: np.ndarray, config: InferenceConfig, limits: SpeakerLimits, *, frame_seconds: float
) -> np.ndarray:
    """Silence columns that speak less than `config.min_speaker_seconds` in all; the likeliest others take over.

    Who speaks most always stays, and so many as `limits` ask for.

    Args:
        probs: speech probabilities, shape (frames, speakers).
        config: gives the least speech, and above which probability a frame is speech (`onset`).
        limits: what is known of the number of speakers.
        frame_seconds: seconds from one frame to the next.

    Returns:
        The same shape; `probs` itself where nobody is pruned.
    """
    if config.min_speaker_seconds <= 0 or len(probs) == 0:
        return probs
    seconds = (probs > config.onset).sum(axis=0) * frame_seconds
    order = np.argsort(-seconds, kind="stable")
    staying = max(int((seconds >= config.min_speaker_seconds).sum()), limits.lowest or 1)
    if not (seconds[order[staying:]] > 0).any():
        return probs
    return _hand_over(probs, np.sort(order[:staying]))


def _hand_over(probs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Only the columns `kept`; at each frame the likeliest of them takes over what the others have."""
    others = np.setdiff1d(np.arange(probs.shape[1]), kept)
    result = np.zeros_like(probs)
    result[:, kept] = probs[:, kept]
    heir = kept[np.argmax(probs[:, kept], axis=1)]
    rows = np.arange(len(probs))
    result[rows, heir] = np.maximum(result[rows, heir], probs[:, others].max(axis=1, initial=0.0))
    return result


def find_segments(
    probs: np.ndarray, config: InferenceConfig, *, frame_seconds: float, max_seconds: float
) -> list[np.ndarray]:
    """Segments of each column, float64 (n, 2) in seconds, none of them past `max_seconds`."""
    return active_segments(probs, frame_seconds=frame_seconds, max_seconds=max_seconds, **config.segment_options())


def order_of_arrival(columns: list[np.ndarray]) -> list[int]:
    """Columns by their first segment; of those that begin together the one that speaks longer; silent ones last."""

    def key(k: int) -> tuple[float, float]:
        spans = columns[k]
        return (float(spans[0, 0]), -float((spans[:, 1] - spans[:, 0]).sum())) if len(spans) else (np.inf, 0.0)

    return sorted(range(len(columns)), key=key)


def named_segments(
    columns: list[np.ndarray], order: list[int], *, offset: float = 0.0, prefix: str = "speaker"
) -> tuple[Segment, ...]:
    """All segments by start, then by speaker; column `order[k]` is `<prefix>_k`; every time grows by `offset`."""
    found = [
        (round(float(start) + offset, 3), k, round(float(end) + offset, 3))
        for k, column in enumerate(order)
        for start, end in columns[column]
    ]
    return tuple(Segment(start, end, f"{prefix}_{k}") for start, k, end in sorted(found) if end > start)
