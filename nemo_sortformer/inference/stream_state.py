# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Everything that a stream knows, as one value: it can be kept, copied, moved, saved, and taken up elsewhere."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import from_cfg
from nemo_sortformer.config.streaming import StreamingConfig
from nemo_sortformer.data.resample import ResamplerState
from nemo_sortformer.functional.cache import SpeakerCache
from nemo_sortformer.functional.live_segments import LiveSegments
from nemo_sortformer.inference.model_identity import ModelIdentity
from nemo_sortformer.inference.online_clustering import OnlineSpeakers
from nemo_sortformer.models.diarizer.streaming_mel import MelStatistics

_FORMAT = 1


class StreamError(ValueError):
    """A stream cannot go on with what it was given; it is as it was before."""


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """A stream between two pieces of audio. Never changed: a step makes a new one."""

    model: ModelIdentity
    """Whose stream it is; another model refuses it."""
    config: StreamingConfig
    """How it steps, and what it remembers."""
    inference: InferenceConfig
    """How it names speakers and cuts segments."""
    sample_rate: int
    """Of the pieces, in Hz."""
    cache: SpeakerCache
    """The memory of the network, a batch of one."""
    audio: np.ndarray
    """Samples that later steps need, at the model's rate, from a fixed number of frames before the next chunk."""
    resampler: ResamplerState
    segments: LiveSegments
    recent: np.ndarray
    """Probabilities of the latest settled frames, which the median filter still needs, shape (frames, speakers)."""
    unsettled: np.ndarray
    """Probabilities of the frames after those, which are answered but will be judged again."""
    left_over: bytes = b""
    """Half a sample of 16-bit PCM."""
    num_samples: int = 0
    """Samples so far, at the model's rate."""
    num_frames: int = 0
    """Frames answered."""
    num_hops: int = 0
    """Hops in `statistics`."""
    statistics: MelStatistics | None = None
    """Of the mel bands, where the model normalizes them by the recording."""
    level_samples: int = 0
    """Samples in `level`."""
    level: float = 0.0
    """Largest sample, or sum of squares, where the model sets a level by the recording."""
    speakers: OnlineSpeakers | None = None
    """Voices so far, where speakers are found by clustering."""
    finished: bool = False

    @property
    def seconds(self) -> float:
        """Audio received so far, in seconds of the stream."""
        return self.resampler.num_in / self.sample_rate if self.resampler.num_in else 0.0

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> StreamState:
        """The same stream on another device, or with its memory in another dtype; a step does so by itself."""
        statistics = self.statistics
        if statistics is not None:
            statistics = MelStatistics(*(tensor.to(device=device) for tensor in statistics))
        return replace(self, cache=self.cache.to(device, dtype), statistics=statistics)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings and tensors on the CPU, for `torch.save` or any other form."""
        plain: dict[str, Any] = {"format": _FORMAT}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (StreamingConfig, InferenceConfig)):
                value = asdict(value)
            elif hasattr(value, "_asdict"):
                value = {key: _plain(item) for key, item in value._asdict().items()}
            plain[field.name] = _plain(value)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> StreamState:
        """The stream that :meth:`to_dict` wrote down.

        Raises:
            StreamError: it is none, or one of another version.
        """
        try:
            if plain["format"] != _FORMAT:
                raise StreamError(f"The state has the format {plain['format']}, this version reads {_FORMAT}.")
            values = {field.name: plain[field.name] for field in fields(cls)}
            values["config"] = from_cfg(StreamingConfig, values["config"])
            values["inference"] = from_cfg(InferenceConfig, values["inference"])
            values["left_over"] = bytes(values["left_over"])
            values["model"] = ModelIdentity(**values["model"])
            values["cache"] = SpeakerCache(**values["cache"])
            values["resampler"] = ResamplerState(**_arrays(values["resampler"]))
            values["segments"] = LiveSegments(**_arrays(values["segments"]))
            for name in ("audio", "recent", "unsettled"):
                values[name] = values[name].numpy()
            if values["statistics"] is not None:
                values["statistics"] = MelStatistics(**values["statistics"])
            if values["speakers"] is not None:
                values["speakers"] = OnlineSpeakers(**_arrays(values["speakers"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise StreamError(f"This is not the state of a stream, or a damaged one: {error!r}.") from error
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write the stream to a file, whole or not at all."""
        path = Path(path)
        draft = path.with_name(f".{path.name}.part")
        try:
            torch.save(self.to_dict(), draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> StreamState:
        """Read what :meth:`save` wrote. Only tensors and plain values are unpickled.

        Raises:
            StreamError: it is not the file of a stream.
        """
        try:
            plain = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # of bytes that are none of its own, torch raises what it likes
            raise StreamError(f"`{path}` is not the saved state of a stream: {error}") from error
        if not isinstance(plain, dict):
            raise StreamError(f"`{path}` is not the saved state of a stream.")
        return cls.from_dict(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, bytes):
        return list(value)
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
