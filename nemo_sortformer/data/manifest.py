# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo manifests: one JSON object per line, read once and checked key by key."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["ManifestEntry", "ManifestError", "iter_json_lines", "iter_manifest", "read_manifest"]

LineT = TypeVar("LineT")

_ALIASES = {
    "audio_filepath": ("audio_file", "audio_filename", "audio"),
    "rttm_filepath": ("rttm_file", "rttm_filename", "rttm"),
    "seglst_filepath": ("seglst_file", "seglst"),
    "uem_filepath": ("uem_file", "uem"),
}
_PATHS = tuple(_ALIASES)
_TEXTS = ("uniq_id", "text", "speaker")


class ManifestError(ValueError):
    """A manifest that cannot be used; the message begins with ``file:line``."""


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One line of a manifest: a stretch of a recording and where its labels are."""

    audio_filepath: Path
    """Absolute; a relative path in the manifest is meant from the manifest's folder, as are the paths below."""
    offset: float = 0.0
    """Start of the stretch in the file, in seconds."""
    duration: float | None = None
    """Length of the stretch in seconds; None: to the end of the file."""
    rttm_filepath: Path | None = None
    seglst_filepath: Path | None = None
    uem_filepath: Path | None = None
    uniq_id: str = ""
    """Names the entry, and is unlike every other of its manifest."""
    num_speakers: int | None = None
    text: str | None = None
    speaker: str | None = None
    """Who speaks, in manifests of one speaker per file."""
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    """All other keys as they are (`speech_start`, `speech_end`, `language` ...)."""
    recording_names: tuple[str, ...] = field(default=(), compare=False)
    """Names under which an RTTM or SegLST file may know the recording, the likeliest first."""
    source: str = field(default="", compare=False)
    """Where the entry was read, as ``file:line``."""


def read_manifest(path: str | Path) -> list[ManifestEntry]:
    """Read a JSON-lines manifest. Blank lines are skipped; neither audio nor labels are opened.

    `uniq_id` defaults to the name of the audio file without its ending. Where it is not unique, the folder is put
    before it (files of one name), the stretch in milliseconds is put behind it (several stretches of one file), or
    a number (the same stretch twice, which is allowed, as some repeat data on purpose).

    Raises:
        ManifestError: the file is missing or has no entries, or a line is not a JSON object, lacks
            `audio_filepath`, or has a value of the wrong type or outside its range.
    """
    entries = []
    for line in iter_manifest(path):
        if isinstance(line, ManifestError):
            raise line
        entries.append(line)
    if not entries:
        raise ManifestError(f"{path}: has no entries.")
    return _with_unique_ids(entries)


def iter_manifest(path: str | Path) -> Iterator[ManifestEntry | ManifestError]:
    """Yield each entry of a manifest, or the error of its line, so that one bad line does not hide the next.

    The ids are as given: :func:`read_manifest` makes them unique.
    """
    return iter_json_lines(path, _parse)


def iter_json_lines(path: str | Path, parse: Callable[..., LineT]) -> Iterator[LineT | ManifestError]:
    """Yield what `parse(record, folder=..., source=...)` makes of each line of a JSON-lines file, or its error.

    Args:
        path: of the file.
        parse: takes the JSON value of a line, the folder of the file, and where the line stands, as ``file:line``; a
            ``ValueError`` of it is the error of its line.
    """
    path = Path(path).expanduser().absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        yield ManifestError(f"{path}: there is no such file.")
        return
    except (OSError, UnicodeDecodeError) as error:
        yield ManifestError(f"{path}: cannot be read as text: {error}")
        return
    if text.lstrip().startswith("["):
        yield ManifestError(f"{path}:1: is one JSON list. A manifest has one JSON object per line, without commas.")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield parse(json.loads(line), folder=path.parent, source=f"{path}:{number}")
            except json.JSONDecodeError as error:
                yield ManifestError(f"{path}:{number}: is not JSON: {error.msg} at column {error.colno}.")
            except ValueError as error:
                yield ManifestError(f"{path}:{number}: {error}")


def _parse(record: Any, *, folder: Path, source: str) -> ManifestEntry:
    if not isinstance(record, dict):
        raise ValueError(f"a line must be a JSON object, but is a {type(record).__name__}.")
    rest = dict(record)
    values: dict[str, Any] = {}
    for name in _PATHS:
        text = _take(rest, name, *_ALIASES[name])
        values[name] = _path(name, text, folder) if text not in (None, "") else None
    if values["audio_filepath"] is None:
        raise ValueError(f"`audio_filepath` is missing; the keys are {', '.join(f'`{key}`' for key in record)}.")
    values.update({name: _text(name, rest.pop(name, None)) for name in _TEXTS})
    offset = _number("offset", rest.pop("offset", None))
    values["offset"] = 0.0 if offset is None else offset
    values["duration"] = _number("duration", rest.pop("duration", None), positive=True)
    values["num_speakers"] = _count("num_speakers", rest.pop("num_speakers", None))
    given, stem = values["uniq_id"], values["audio_filepath"].stem
    labels = values["rttm_filepath"] or values["seglst_filepath"]
    names = [given, stem, labels.name.split(".")[0] if labels else None]
    values["uniq_id"] = given or stem
    values["recording_names"] = tuple(dict.fromkeys(name for name in names if name))
    return ManifestEntry(**values, extra=rest, source=source)


def _take(record: dict[str, Any], *names: str) -> Any:
    """Remove all of `names`; return the first value that is there. Two that differ are an error."""
    found = {name: record.pop(name) for name in names if name in record}
    given = {name: value for name, value in found.items() if value not in (None, "")}
    if len({str(value) for value in given.values()}) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} mean the same, but differ. Keep one.")
    return next(iter(given.values()), None)


def _path(name: str, value: Any, folder: Path) -> Path:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a path in quotes, but is {value!r}.")
    return folder / Path(value).expanduser()


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if name != "text" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # ids are often numbers
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a text in quotes, but is {value!r}.")
    return value


def _number(name: str, value: Any, *, positive: bool = False) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` must be a number of seconds, but is {value!r}.")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be {'more than 0' if positive else '0 or more'} seconds, but is {value}.")
    return float(value)


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError(f"`{name}` must be a whole number, but is {value!r}.")
    return int(value)


def _with_unique_ids(entries: list[ManifestEntry]) -> list[ManifestEntry]:
    files: defaultdict[str, set[Path]] = defaultdict(set)
    for entry in entries:
        files[entry.uniq_id].add(entry.audio_filepath)
    ids = []
    for entry in entries:
        paths = files[entry.uniq_id]
        ids.append(_folders_before(entry, paths) if len(paths) > 1 else entry.uniq_id)
    crowded = {name for name, count in Counter(ids).items() if count > 1}
    ids = [f"{name}{_stretch(entry)}" if name in crowded else name for name, entry in zip(ids, entries, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(ids):
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        ids[index] = unique
    return [replace(entry, uniq_id=name) for entry, name in zip(entries, ids, strict=True)]


def _folders_before(entry: ManifestEntry, paths: set[Path]) -> str:
    """The id with as many parent folders before it as tell the files apart, and the ending where the folders agree."""
    own = entry.audio_filepath
    for depth in range(1, len(own.parts)):
        tails = Counter(path.parent.parts[-depth:] for path in paths)
        if tails[own.parent.parts[-depth:]] == 1:
            return "_".join((*own.parent.parts[-depth:], entry.uniq_id)).replace("/", "")
    return f"{entry.uniq_id}_{own.suffix.removeprefix('.')}"


def _stretch(entry: ManifestEntry) -> str:
    if entry.offset == 0 and entry.duration is None:
        return ""
    end = "end" if entry.duration is None else str(round((entry.offset + entry.duration) * 1000))
    return f"-{round(entry.offset * 1000)}-{end}"
