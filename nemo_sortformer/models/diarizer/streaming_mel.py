# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Mel features of audio that arrives piece by piece: the hops of a recording, whatever the pieces."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf
from torch import Tensor, nn

from nemo_sortformer.config import ConfigError
from nemo_sortformer.functional.frames import lengths_to_mask

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

_MEL_CLASS = "AudioToMelSpectrogramPreprocessor"
_RUNNING, _NONE = "per_feature", ("NA", None, "None", "null", "", False)
_DEVIATION_FLOOR = 1e-5
"""NeMo adds this to each deviation."""


class MelStatistics(NamedTuple):
    """Mean and spread of each mel band over all hops of a stream so far: a value."""

    num_hops: Tensor
    """Hops, shape (batch,), float32."""
    mean: Tensor
    """Shape (batch, bands), float32."""
    spread: Tensor
    """Sum of squared differences from the mean, shape (batch, bands), float32."""

    def add(self, mel: Tensor, valid: Tensor) -> MelStatistics:
        """With the hops of `mel` (batch, bands, hops) in it that `valid` (batch, hops) marks."""
        weight = valid[:, None].to(mel.dtype)
        new = weight.sum(dim=2)
        mean = (mel * weight).sum(dim=2) / new.clamp(min=1)
        spread = ((mel - mean[:, :, None]).square() * weight).sum(dim=2)
        count = self.num_hops + new[:, 0]
        share = new / count[:, None].clamp(min=1)
        away = mean - self.mean
        return MelStatistics(
            count, self.mean + away * share, self.spread + spread + away.square() * self.num_hops[:, None] * share
        )

    def normalize(self, mel: Tensor) -> Tensor:
        """Mean 0 and deviation 1 in each band, by the statistics so far, as NeMo's `per_feature` by those of all."""
        deviation = (self.spread / (self.num_hops - 1).clamp(min=1)[:, None]).sqrt() + _DEVIATION_FLOOR
        return (mel - self.mean[:, :, None]) / deviation[:, :, None]


class StreamingMel(nn.Module):
    """The mel front end of a model, without its normalization and in float32 whatever the model has.

    Hop h is the same from a piece of audio as from the whole recording, if the piece has `margin_hops` hops before h
    and `samples_ahead` samples after its middle, or ends where the recording does.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        if _MEL_CLASS not in str(settings.get("_target_")):
            raise ConfigError(
                f"A stream needs NeMo's `{_MEL_CLASS}` as `model.preprocessor`, but that is "
                f"`{settings.get('_target_')}`."
            )
        self.normalization = settings.get("normalize", _RUNNING)
        if self.normalization in _NONE:
            self.normalization = None
        elif self.normalization != _RUNNING:
            raise ConfigError(
                f"A stream needs `model.preprocessor.normalize` to be `NA` or `per_feature`, but it is "
                f"`{self.normalization}`."
            )
        plain = dict(settings) | {"normalize": "NA", "pad_to": 0, "dither": 0.0}
        self.front_end = ModelPT.from_config_dict(OmegaConf.create(plain)).eval()
        featurizer = self.front_end.featurizer
        if featurizer.exact_pad or featurizer.frame_splicing != 1 or not featurizer.log:
            raise ConfigError(
                "A stream needs a `model.preprocessor` with `log: true`, `frame_splicing: 1` and `exact_pad: false`."
            )
        self.hop_samples = int(featurizer.hop_length)
        self.bands = int(featurizer.nfilt)
        self.samples_ahead = int(featurizer.n_fft) // 2
        self.margin_hops = math.ceil((self.samples_ahead + 1) / self.hop_samples)
        self.level_power = float(featurizer.mag_power)
        """A gain of g adds `level_power * log(g)` to each feature."""

    def empty_statistics(self, device: torch.device | str | None = None) -> MelStatistics:
        """Statistics of one stream of which nothing has been heard."""
        zeros = torch.zeros(1, self.bands, device=device)
        return MelStatistics(zeros[:, 0].clone(), zeros, zeros.clone())

    @torch.no_grad()
    def forward(
        self, audio: Tensor, num_samples: Tensor, num_hops: Tensor, skipped: Tensor, *, size: int
    ) -> tuple[Tensor, Tensor]:
        """Mel features of pieces of audio.

        Args:
            audio: pieces that begin `margin_hops` hops before the first one wanted, shape (batch, samples), float32.
            num_samples: valid samples of each, shape (batch,).
            num_hops: hops wanted of each, shape (batch,).
            skipped: hops to leave out before those, shape (batch,).
            size: hops of the result.

        Returns:
            Features (batch, bands, hops), zero past `num_hops`, and which of them are valid (batch, hops).
        """
        mel, _ = self.front_end(input_signal=audio, length=num_samples)
        place = torch.arange(size, device=audio.device)
        first = skipped + self.margin_hops
        index = (place[None] + first[:, None]).clamp(max=mel.shape[2] - 1)
        valid = lengths_to_mask(num_hops, size)
        found = mel.gather(2, index[:, None].expand(-1, mel.shape[1], -1))
        return torch.where(valid[:, None], found, 0), valid


def streaming_mel(model: SortformerDiarizer) -> StreamingMel:
    """The front end for streams of this model, on its device; made once for all models that have the same settings.

    Raises:
        ConfigError: the model's front end cannot be run piece by piece.
    """
    return _front_end(json.dumps(model.config.preprocessor, sort_keys=True, default=str), str(model.device))


@lru_cache(maxsize=8)
def _front_end(settings: str, device: str) -> StreamingMel:
    return StreamingMel(json.loads(settings)).to(device)
