# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Strict merge of settings into a typed dataclass: an unknown key or a wrong type stops the run, with a hint."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

ConfigT = TypeVar("ConfigT")


class ConfigError(ValueError):
    """A setting that the user gave is unknown, missing, of the wrong type, or out of its range."""


def from_cfg(cls: type[ConfigT], cfg: Any = None, *, path: str = "") -> ConfigT:
    """Build the dataclass `cls` from settings; keys that `cfg` leaves out keep the defaults of `cls`.

    Args:
        cls: a dataclass; its fields may be dataclasses themselves and are then merged in the same way.
        cfg: a mapping, an OmegaConf `DictConfig` (interpolations are resolved), an instance of `cls`, or None for
            the defaults. Neither is changed.
        path: where `cfg` stands in the whole file, for the messages, e.g. ``model.loss``.

    Returns:
        A new instance (or `cfg` itself where it is an instance already).

    Raises:
        ConfigError: a key that `cls` does not know (with the nearest one it knows), a value of the wrong type, a key
            left at ``???`` or without a default, or whatever the checks of `cls` find.

    Example:
        >>> @dataclasses.dataclass(kw_only=True)
        ... class Head:
        ...     num_slots: int = 4
        >>> from_cfg(Head, {"num_slts": 3})
        Traceback (most recent call last):
        ...
        nemo_sortformer.config.merge.ConfigError: `num_slts` is no key of Head. Did you mean `num_slots`?
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"`cls` must be a dataclass, but is {cls!r}.")
    if isinstance(cfg, cls):
        return cfg
    settings = to_plain(cfg, path=path)
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise ConfigError(f"`{path or cls.__name__}` must be a group of keys, but is {settings!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = _type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ConfigError(f"`{where}` is no key of {cls.__name__}. {hint_for(str(key), fields)}")
        if isinstance(value, str) and value == "???":
            raise ConfigError(f"`{where}` has no default and must be given; it is left at `???`.")
        values[str(key)] = _convert(value, hints[key], where)
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and no_default:
            where = f"{path}.{name}" if path else name
            raise ConfigError(f"`{where}` of {cls.__name__} has no default and must be given.")
    try:
        return cls(**values)
    except ConfigError as error:
        if path and path not in str(error):
            raise ConfigError(f"In `{path}`: {error}") from error
        raise


def to_plain(cfg: Any, *, path: str = "") -> Any:
    """Turn an OmegaConf node into plain dicts and lists, interpolations resolved; leave anything else alone."""
    if type(cfg).__module__.partition(".")[0] != "omegaconf":
        return cfg
    from omegaconf import OmegaConf  # here, as a reader of plain dicts needs no OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"`{path or 'config'}` cannot be resolved: {error}") from error


def hint_for(key: str, known: typing.Iterable[str]) -> str:
    """Say which of the `known` keys the user may have meant by `key`, or list them all."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"Did you mean `{near[0]}`?" if near else "It knows " + ", ".join(f"`{name}`" for name in known) + "."


@cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check `value` against a type hint; an int passes as a float, a str as a Path, a mapping as a dataclass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal:
        if value in arguments:
            return value
        hint_text = hint_for(value, [str(a) for a in arguments]) if isinstance(value, str) else ""
        choices = ", ".join(repr(a) for a in arguments)
        raise ConfigError(f"`{where}` must be one of {choices}, but is {value!r}. {hint_text}".rstrip())
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_cfg(hint, value, path=where)
    if origin in (list, tuple) or hint in (list, tuple):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"`{where}` must be a list, but is {value!r}.")
        item_hint = arguments[0] if arguments else Any
        items = [_convert(item, item_hint, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if tuple in (origin, hint) else items
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"`{where}` must be a group of keys, but is {value!r}.")
        return dict(value)
    return _convert_plain(value, hint, where)


def _convert_plain(value: Any, hint: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is str and isinstance(value, Path):
        return str(value)
    if hint not in (float, int, Path) and isinstance(value, hint):
        return value
    raise ConfigError(f"`{where}` must be of type {hint.__name__}, but is {value!r}.")


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    errors = []
    for option in arguments:
        if option is type(None):
            continue
        try:
            return _convert(value, option, where)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:  # `X | None`: the message of X says more than a list of types
        raise errors[0]
    names = ", ".join(getattr(option, "__name__", str(option)) for option in arguments)
    raise ConfigError(f"`{where}` must be one of the types {names}, but is {value!r}.") from errors[0]
