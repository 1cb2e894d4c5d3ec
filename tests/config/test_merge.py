# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings are merged strictly: what is unknown, missing or of the wrong type stops the run and says the way out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from nemo_sortformer.config import ConfigError, from_cfg


@dataclass(kw_only=True)
class Inner:
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"`weight` must be at least 0, but is {self.weight}.")


@dataclass(kw_only=True)
class Outer:
    name: str
    count: int = 4
    rate: float = 1.0
    flag: bool = False
    kind: Literal["heads", "clustering"] = "heads"
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    files: str | list[str] | None = None
    path: Path | None = None
    free: dict[str, Any] = field(default_factory=dict)
    pair: tuple[float, ...] = (0.0, 1.0)


def test_defaults_fill_what_is_left_out():
    assert from_cfg(Outer, {"name": "a"}) == Outer(name="a")


def test_a_dict_config_is_merged_with_its_interpolations_resolved_and_stays_as_it_was():
    cfg = OmegaConf.create({"name": "a", "rate": 3, "inner": {"weight": "${rate}"}, "files": ["x", "y"]})
    before = OmegaConf.to_yaml(cfg)
    merged = from_cfg(Outer, cfg)
    assert merged.inner.weight == 3.0
    assert merged.files == ["x", "y"]
    assert OmegaConf.to_yaml(cfg) == before


def test_plain_types_are_converted_only_where_nothing_is_lost():
    merged = from_cfg(Outer, {"name": "a", "count": 2.0, "rate": 1, "path": "x/y", "pair": [1, 2]})
    assert (merged.count, type(merged.count)) == (2, int)
    assert (merged.rate, type(merged.rate)) == (1.0, float)
    assert merged.path == Path("x/y")
    assert merged.pair == (1.0, 2.0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "a", "cuont": 3}, r"`model.cuont` is no key of Outer. Did you mean `count`\?"),
        ({"name": "a", "zzz": 3}, r"`model.zzz` is no key of Outer. It knows .*`count`"),
        ({"name": "a", "inner": {"wieght": 1.0}}, r"`model.inner.wieght` is no key of Inner. Did you mean `weight`"),
        ({"name": "a", "maybe": {"wieght": 1.0}}, r"`model.maybe.wieght`"),
        ({"name": "a", "inner": {"weight": -1.0}}, r"In `model.inner`: `weight` must be at least 0, but is -1.0"),
        ({"name": "a", "inner": 3}, r"`model.inner` must be a group of keys, but is 3"),
        ({"name": "a", "count": 2.5}, r"`model.count` must be of type int, but is 2.5"),
        ({"name": "a", "count": True}, r"`model.count` must be of type int, but is True"),
        ({"name": "a", "rate": "fast"}, r"`model.rate` must be of type float, but is 'fast'"),
        ({"name": "a", "flag": "yes"}, r"`model.flag` must be of type bool, but is 'yes'"),
        ({"name": "a", "kind": "cluster"}, r"must be one of 'heads', 'clustering', but is 'cluster'"),
        ({"name": "a", "files": [1]}, r"`model.files` must be one of the types"),
        ({"name": "???"}, r"`model.name` has no default and must be given"),
        ({}, r"`model.name` of Outer has no default and must be given"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_way_out(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_cfg(Outer, settings, path="model")


def test_a_broken_interpolation_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot be resolved"):
        from_cfg(Outer, OmegaConf.create({"name": "${nothing.there}"}))
