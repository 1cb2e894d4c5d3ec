# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Choose the inference settings that suit a model: the network is run once, then settings are tried on its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.inference.assign import SpeakerLimits, find_segments, prune_phantoms, speaker_probs
from nemo_sortformer.inference.engine import RunOptions, evaluating, network_outputs
from nemo_sortformer.inference.exact_score import Truth
from nemo_sortformer.inference.score import Condition, ErrorCounts
from nemo_sortformer.inference.score_inputs import pair_sessions
from nemo_sortformer.inference.sources import AudioSource
from nemo_sortformer.inference.windows import Outputs

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

GRIDS: dict[str, tuple[float, ...]] = {
    "clustering.threshold": (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.575, 0.6, 0.625, 0.65, 0.675, 0.7, 0.75, 0.8),
    "clustering.smooth_frames": (5, 9, 11, 13, 15, 17, 19, 21, 25),
    "clustering.sharpness": (8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0),
    "clustering.min_frames": (6, 12, 18, 25, 32, 40, 50),
    "onset": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    "offset": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "min_duration_off": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5),
    "min_duration_on": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
    "median_frames": (1, 3, 5, 7, 9, 11, 15),
}
"""Settings that are tried, in this order, and their values; those of the clustering only where it is in use."""
_LEAST_GAIN = 1e-5
"""A setting is only changed for a DER that is lower by this, as 0.1 is 10 %."""


@dataclass(frozen=True)
class Recording:
    """What the network says of a recording, and the truth."""

    outputs: Outputs
    truth: Truth
    duration: float
    offset: float
    """Of the diarized part in its file, in seconds: the truth's times count from the start of the file."""


@dataclass(frozen=True)
class Trial:
    """One setting's values around the settings chosen, all else as chosen."""

    setting: str
    start: Any
    """Value before tuning."""
    chosen: Any
    rates: dict[Any, float]
    """DER by value, as 0.1 is 10 %; the value before tuning is among them."""

    @property
    def worth(self) -> float:
        """By how much the DER would rise if this setting alone went back to its value before tuning."""
        return self.rates[self.start] - self.rates[self.chosen]


@dataclass(frozen=True)
class Tuning:
    """What a search has found."""

    config: InferenceConfig
    before: tuple[ErrorCounts, ...]
    """Errors with the settings before tuning, one per manifest."""
    after: tuple[ErrorCounts, ...]
    trials: tuple[Trial, ...]


def run_network(
    model: SortformerDiarizer,
    manifest: str | Path,
    *,
    condition: Condition,
    config: InferenceConfig,
    splits: Sequence[str] = (),
    advance: Callable[[], None] = lambda: None,
) -> list[Recording]:
    """Run the network over the recordings of a manifest, each in the way that `diarize` would with `config`.

    Args:
        model: the diarizer.
        manifest: lines with `rttm_filepath` or `seglst_filepath`, and maybe `uem_filepath`, `offset`, `duration`.
        condition: how answers will be scored.
        config: only its `assignment` counts, which decides how long recordings are cut into windows.
        splits: leave out the lines whose `split` is another; none leaves out no line.
        advance: called after each recording.

    Raises:
        ValueError: the manifest, its audio or its labels cannot be read.
    """
    entries = read_manifest(manifest)
    sessions = pair_sessions(manifest, {entry.uniq_id: [] for entry in entries}).sessions
    options = RunOptions(config=config)
    recordings = []
    with evaluating(model):
        for entry, session in zip(entries, sessions, strict=True):
            if splits and entry.extra.get("split", splits[0]) not in splits:
                continue
            source = AudioSource(
                name=entry.uniq_id, path=entry.audio_filepath, offset=entry.offset, duration=entry.duration
            )
            audio = source.read(model.config.sample_rate)
            outputs = network_outputs(model, [audio], options)[0]
            truth = Truth(session.reference, condition, session.uem)
            recordings.append(Recording(outputs, truth, len(audio) / model.config.sample_rate, entry.offset))
            advance()
    if not sum(recording.truth.compare([]).speech for recording in recordings):
        only = f" in the splits {list(splits)}" if splits else ""
        raise ValueError(
            f"`{manifest}` has no speech{only} that would be scored, so no setting is better than another."
        )
    return recordings


@dataclass
class Objective:
    """The DER of settings: pooled over the seconds of each set of recordings, and the mean of the sets."""

    sets: Sequence[Sequence[Recording]]
    frame_seconds: float
    calls: int = 0
    _rates: dict[str, float] = field(default_factory=dict, repr=False)
    _key: str = field(default="", repr=False)
    _probs: list[list[np.ndarray]] = field(default_factory=list, repr=False)

    def __call__(self, config: InferenceConfig) -> float:
        """Mean DER; what has been asked before is looked up."""
        key = repr(config)
        if key not in self._rates:
            self.calls += 1
            rates = [counts.der for counts in self.counts(config)]
            self._rates[key] = sum(rates) / len(rates)
        return self._rates[key]

    def counts(self, config: InferenceConfig) -> tuple[ErrorCounts, ...]:
        """Errors in each set, in seconds."""
        totals = []
        for recordings, probs in zip(self.sets, self._speaker_probs(config), strict=True):
            one_by_one = (self._compare(recording, p, config) for recording, p in zip(recordings, probs, strict=True))
            totals.append(sum(one_by_one, start=ErrorCounts()))
        return tuple(totals)

    def _speaker_probs(self, config: InferenceConfig) -> list[list[np.ndarray]]:
        """Probabilities per speaker; kept until a setting changes that they depend on, as they cost the most."""
        key = repr((config.assignment, config.median_frames, config.clustering))
        if key != self._key:
            limits = SpeakerLimits()
            self._probs = [[speaker_probs(one.outputs, config, limits) for one in recs] for recs in self.sets]
            self._key = key
        return self._probs

    def _compare(self, recording: Recording, probs: np.ndarray, config: InferenceConfig) -> ErrorCounts:
        probs = prune_phantoms(probs, config, SpeakerLimits(), frame_seconds=self.frame_seconds)
        columns = find_segments(probs, config, frame_seconds=self.frame_seconds, max_seconds=recording.duration)
        return recording.truth.compare([np.round(column + recording.offset, 3) for column in columns])


@dataclass
class Search:
    """Coordinate descent: one setting after the other takes its best value, until none changes any more.

    The best value is the one whose DER, averaged with its neighbours', is lowest (see :func:`steady`): with few
    recordings the lowest DER itself is often an accident. The offset moves along with the onset, as their distance
    matters more than its height.

    Args:
        objective: the DER of settings.
        start: settings to begin with.
        grids: values to be tried, by setting; its own value is always among them.
        max_rounds: rounds over all settings at most.
        on_trial: called after each value tried, with the setting, the value and its DER.
    """

    objective: Objective
    start: InferenceConfig
    grids: dict[str, tuple[float, ...]]
    max_rounds: int = 6
    on_trial: Callable[[str, Any, float], None] = lambda setting, value, rate: None

    @cached_property
    def settings(self) -> list[str]:
        """The settings that matter."""
        clustered = self.start.assignment == "clustering"
        return [name for name in self.grids if clustered or not name.startswith("clustering.")]

    def run(self) -> Tuning:
        """Search, and measure what each setting is worth at the end."""
        before = self.objective.counts(self.start)
        config = self.start
        for _ in range(self.max_rounds):
            unchanged = config
            for setting in self.settings:
                config = changed(config, setting, self._best(setting, config))
            if config == unchanged:
                break
        trials = tuple(
            Trial(setting, get(self.start, setting), get(config, setting), self._rates(setting, config))
            for setting in self.settings
        )
        return Tuning(config, before, self.objective.counts(config), trials)

    def _best(self, setting: str, config: InferenceConfig) -> Any:
        """The value with the lowest steady DER; the present one where nothing is gained."""
        rates = steady(self._rates(setting, config))
        best, present = min(rates, key=lambda value: rates[value]), get(config, setting)
        return best if rates[best] < rates[present] - _LEAST_GAIN else present

    def _rates(self, setting: str, config: InferenceConfig) -> dict[Any, float]:
        """DER by value of one setting, the others as in `config`."""
        rates = {}
        for value in sorted({*self.grids[setting], get(config, setting), get(self.start, setting)}):
            rates[value] = self.objective(changed(config, setting, value))
            self.on_trial(setting, value, rates[value])
        return rates


def steady(rates: dict[Any, float]) -> dict[Any, float]:
    """Average each value's DER with its neighbours': half its own, a quarter of each, at the edges its own for both.

    A value that is only good where its neighbours are bad was lucky with these recordings.

    Example:
        >>> steady({0.4: 0.25, 0.5: 0.125, 0.6: 0.25})
        {0.4: 0.21875, 0.5: 0.1875, 0.6: 0.21875}
    """
    own = list(rates.values())
    before, after = [own[0], *own[:-1]], [*own[1:], own[-1]]
    return {value: (a + 2 * b + c) / 4 for value, a, b, c in zip(rates, before, own, after, strict=True)}


def get(config: InferenceConfig, setting: str) -> Any:
    """The value of a setting, of the clustering by `clustering.name`."""
    group, _, name = setting.rpartition(".")
    return getattr(getattr(config, group) if group else config, name)


def changed(config: InferenceConfig, setting: str, value: Any) -> InferenceConfig:
    """Settings with one of them changed; the offset moves along with the onset, and does not rise above it.

    Raises:
        ConfigError: there is no such setting, or the value is out of its range.
    """
    group, _, name = setting.rpartition(".")
    owner = getattr(config, group, None) if group else config
    if not hasattr(owner, name):
        raise ConfigError(f"`{setting}` is no setting of the inference.")
    value = type(getattr(owner, name))(value)
    if group:
        return replace(config, **{group: replace(owner, **{name: value})})
    if name == "onset":
        offset = min(max(round(config.offset + value - config.onset, 6), 0.0), 1.0)
        return replace(config, onset=value, offset=offset)
    if name == "offset" and value != config.offset:
        value = min(value, config.onset)
    return replace(config, **{name: value})


def save_with(model: SortformerDiarizer, config: InferenceConfig, path: str | Path) -> None:
    """Write a .nemo file of the model that carries these inference settings; the model carries them from then on."""
    from omegaconf import open_dict

    cfg = model.cfg
    with open_dict(cfg):
        cfg.inference = asdict(config)
    model.cfg = cfg
    model.config = replace(model.config, inference=config)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    model.save_to(str(path))
