# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is compared: the keys of configs/ablation.yaml, and the list of runs that they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nemo_sortformer.config import ConfigError, from_cfg
from nemo_sortformer.config.merge import hint_for
from nemo_sortformer.data.prototypes import PrototypeTask


@dataclass(kw_only=True)
class SystemConfig:
    """A row of the tables: how the labels are made. Any state encoder and head with a `_target_` will do."""

    title: str
    """Its name in tables and plots."""
    encoder: dict[str, Any]
    """The state encoder; it says `hidden_size`, as widths differ where parameters are to be equal."""
    head: dict[str, Any] | None = None
    """The label head; None: a linear map."""
    loss: dict[str, Any] = field(default_factory=dict)
    """Keys of the loss that the system has whatever the grid says, e.g. `layer_weight`."""
    same_weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other keys of `encoder` that the trained weights are tested with too, by a name for each."""


@dataclass(kw_only=True)
class PartConfig:
    """A part of the grid: each of its systems with each of its losses, pools and seeds."""

    systems: list[str]
    losses: list[str]
    pools: list[int | None] = field(default_factory=lambda: [64])
    """Prototypes in the training pool; None: fresh ones each time."""
    seeds: list[int] | None = None
    """None: `seeds` of the whole."""


@dataclass(kw_only=True)
class CompareConfig:
    """A table of differences within a part, seed by seed, so that what a seed does to both is not counted."""

    part: str
    by: Literal["system", "loss"]
    """What the pairs name; the other one is the same on both sides."""
    pairs: list[list[str]]
    """[a, b]: the error of a minus the error of b."""


@dataclass(kw_only=True)
class TrainConfig:
    """Training, the same for every run."""

    steps: int = 800
    batch_size: int = 16
    frames: int = 96
    """Length of a training recording."""
    lr: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    curve_every: int = 100
    """Steps between two points of the learning curves."""
    curve_recordings: int = 96
    """Recordings with seen and with unseen classes that a point is measured on."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "frames", "curve_every", "curve_recordings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")


@dataclass(kw_only=True)
class AblationConfig:
    """Everything in configs/ablation.yaml."""

    out: str = "ablation"
    """Folder of the finished runs, one JSON each, and of the report; the same folder again goes on."""
    publish: str | None = None
    """Folder of documentation that a complete grid is written into; None: only the report in `out`."""
    systems: dict[str, SystemConfig]
    losses: dict[str, dict[str, Any]]
    """Keys of the loss, by a name for each; `layer_weight` and others may come from the system."""
    grid: dict[str, PartConfig]
    """The parts; a run that several of them name is made once."""
    compare: dict[str, CompareConfig] = field(default_factory=dict)
    """Tables of differences by name."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    task: PrototypeTask = field(default_factory=PrototypeTask)
    """The task; `pool_size` is that of the part."""
    train: TrainConfig = field(default_factory=TrainConfig)
    test_recordings: dict[str, int] = field(default_factory=lambda: {"1": 256, "2": 96, "4": 48})
    """Unseen recordings in the final test, by their length in training lengths."""
    threads: int = 1
    """Threads of torch."""

    def __post_init__(self) -> None:
        self.systems = {name: from_cfg(SystemConfig, v, path=f"systems.{name}") for name, v in self.systems.items()}
        self.grid = {name: from_cfg(PartConfig, v, path=f"grid.{name}") for name, v in self.grid.items()}
        self.compare = {name: from_cfg(CompareConfig, v, path=f"compare.{name}") for name, v in self.compare.items()}
        self.test_recordings = {str(times): count for times, count in self.test_recordings.items()}
        for name, part in self.grid.items():
            for key, known in (("systems", self.systems), ("losses", self.losses)):
                for wanted in getattr(part, key):
                    if wanted not in known:
                        raise ConfigError(f"`grid.{name}.{key}` names `{wanted}`. {hint_for(wanted, known)}")
        for name, table in self.compare.items():
            if table.part not in self.grid:
                raise ConfigError(f"`compare.{name}.part` names `{table.part}`. {hint_for(table.part, self.grid)}")
        if not self.runs():
            raise ConfigError("`grid` must name at least one run, but names none.")
        if "1" not in self.test_recordings:
            raise ConfigError("`test_recordings` must have the training length, key 1.")

    def runs(self) -> list[Run]:
        """All runs, each once: one seed of everything, then the next, so that an early look shows all systems."""
        found = dict.fromkeys(self._product())
        seeds = dict.fromkeys(run.seed for run in found)
        return [run for seed in seeds for run in found if run.seed == seed]

    def _product(self) -> Iterator[Run]:
        for part in self.grid.values():
            for pool in part.pools:
                for system in part.systems:
                    for loss in part.losses:
                        for seed in self.seeds if part.seeds is None else part.seeds:
                            yield Run(system, loss, pool, seed)

    def digest(self, run: Run) -> str:
        """A short number of all settings that decide the result of a run."""
        settings = {
            "system": asdict(self.systems[run.system]) | {"title": None},
            "loss": self.losses[run.loss],
            "task": asdict(self.task) | {"pool_size": run.pool},
            "train": asdict(self.train),
            "test_recordings": self.test_recordings,
            "seed": run.seed,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Run:
    """One training."""

    system: str
    loss: str
    pool: int | None
    seed: int

    @property
    def name(self) -> str:
        """Its file name without ending."""
        return f"{self.system}-{self.loss}-pool{self.pool or 'all'}-seed{self.seed}"
