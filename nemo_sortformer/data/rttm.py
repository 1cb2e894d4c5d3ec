# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""RTTM files: the labels of a recording, one ``SPEAKER`` line per segment."""

import math
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from nemo_sortformer.data.segment import Segment, merge_overlaps

__all__ = ["RttmError", "RttmWarning", "format_rttm", "read_rttm", "rttm_problems", "select_recording", "write_rttm"]

_OTHER_TYPES = frozenset(
    (
        "SEGMENT",
        "NOSCORE",
        "NO_RT_METADATA",
        "LEXEME",
        "NON-LEX",
        "NON-SPEECH",
        "FILLER",
        "EDIT",
        "IP",
        "SU",
        "CB",
        "A/P",
    )
    + ("SPKR-INFO",)
)


class RttmError(ValueError):
    """A file that is not RTTM; the message begins with ``file:line``."""


class RttmWarning(UserWarning):
    """An RTTM file that is used although something about it is odd."""


def read_rttm(path: str | Path, *, recording: str | None = None) -> dict[str, list[Segment]]:
    """Read the segments of every recording that an RTTM file names.

    Blank lines, comments (``;;`` or ``#``) and lines of RTTM's other types (``SPKR-INFO``, ``LEXEME`` ...) are
    skipped, segments of zero length too. Segments of one speaker that overlap each other are merged.

    Args:
        path: the file, in UTF-8.
        recording: keep this recording only; the result then has it as its one key, with an empty list if the file
            does not name it.

    Returns:
        Segments by recording, sorted by start. A file without segments gives an empty dictionary.

    Raises:
        RttmError: the file is missing, or a line has too few fields, an unknown type, a time that is no number, is
            negative or NaN, or a negative duration.
    """
    found: dict[str, list[Segment]] = {} if recording is None else {recording: []}
    for line in _lines(Path(path)):
        if isinstance(line, RttmError):
            raise line
        name, segment = line
        if recording is None or name == recording:
            found.setdefault(name, []).append(segment)
    return {name: merge_overlaps([s for s in segments if s.end > s.start]) for name, segments in found.items()}


def rttm_problems(path: str | Path) -> list[RttmError]:
    """Every line of an RTTM file that :func:`read_rttm` would not take, not the first alone."""
    return [line for line in _lines(Path(path)) if isinstance(line, RttmError)]


def select_recording(
    by_recording: dict[str, list[Segment]], names: Iterable[str | None], *, source: str | Path
) -> list[Segment]:
    """Choose the segments of one recording out of a file that may name several.

    The first of `names` that the file has wins. A file that names exactly one recording is taken whatever its name,
    with a warning, as data sets often name the audio and the labels differently.

    Raises:
        RttmError: the file names several recordings and none of `names`.
    """
    wanted = [name for name in names if name]
    for name in wanted:
        for form in (name, _one_word(name)):
            if form in by_recording:
                return by_recording[form]
    if not by_recording:
        return []
    if len(by_recording) == 1:
        (only,) = by_recording
        message = f"{source}: holds recording `{only}`, not `{wanted[0] if wanted else ''}`; its segments are used."
        warnings.warn(message, RttmWarning, stacklevel=2)
        return by_recording[only]
    some = ", ".join(f"`{name}`" for name in sorted(by_recording)[:5])
    raise RttmError(
        f"{source}: holds {len(by_recording)} recordings ({some} ...), but none is called "
        f"{' or '.join(f'`{name}`' for name in wanted)}. Set `uniq_id` in the manifest to the name in the file."
    )


def format_rttm(segments: Iterable[Segment], recording: str) -> str:
    """The segments as RTTM text, to the millisecond; blanks inside names become ``_``, as RTTM has no quoting."""
    lines = []
    for segment in sorted(segments):
        start, end = round(segment.start, 3), round(segment.end, 3)
        duration = max(end - start, 0.001)  # a segment is never lost by rounding
        speaker = _one_word(segment.speaker)
        lines.append(f"SPEAKER {_one_word(recording)} 1 {start:.3f} {duration:.3f} <NA> <NA> {speaker} <NA> <NA>\n")
    return "".join(lines)


def write_rttm(path: str | Path, segments: Iterable[Segment], recording: str) -> None:
    """Write one recording to an RTTM file, in place of what was there."""
    Path(path).write_text(format_rttm(segments, recording), encoding="utf-8")


def _one_word(name: str) -> str:
    return re.sub(r"\s", "_", name.strip()) or "unknown"


def _lines(path: Path) -> Iterator[tuple[str, Segment] | RttmError]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file." if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        yield RttmError(f"{path}: {reason}")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith((";;", "#")) or fields[0] in _OTHER_TYPES:
            continue
        try:
            yield _parse(fields)
        except ValueError as error:
            yield RttmError(f"{path}:{number}: {error}")


def _parse(fields: list[str]) -> tuple[str, Segment]:
    if fields[0] != "SPEAKER":
        raise ValueError(f"`{fields[0][:40]}` is no line type of RTTM. Is the file RTTM? A comment starts with `;;`.")
    if len(fields) < 8:
        raise ValueError(f"a SPEAKER line must have 8 fields or more, but has {len(fields)}.")
    start, duration = _seconds("start", fields[3]), _seconds("duration", fields[4])
    return fields[1], Segment(start, round(start + duration, 8), fields[7])


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be 0 or more seconds, but is `{text}`.")
    return value
