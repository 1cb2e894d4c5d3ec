# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""SegLST files: segments with speaker and words, as one JSON list."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_sortformer.data.segment import Segment, merge_overlaps

__all__ = ["SeglstError", "format_seglst", "read_seglst", "seglst_records", "write_seglst"]


class SeglstError(ValueError):
    """A file that is not SegLST; the message begins with its path and the number of the segment, from 1."""


def seglst_records(path: str | Path) -> list[dict[str, Any]]:
    """Read the checked segments of a SegLST file as they are, words and further keys included.

    `start_time` and `end_time` are turned into numbers where they are text, as some challenges write them.

    Raises:
        SeglstError: the file is missing or no JSON list of objects, or a segment lacks `speaker`, `start_time` or
            `end_time`, or has times that are negative, NaN or in the wrong order.
    """
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise SeglstError(f"{path}: there is no such file.") from error
    except (OSError, ValueError) as error:
        raise SeglstError(f"{path}: is not JSON: {error}") from error
    if not isinstance(records, list):
        raise SeglstError(f"{path}: must be a JSON list of segments, but is a {type(records).__name__}.")
    checked = []
    for number, record in enumerate(records, start=1):
        try:
            checked.append(_check(record))
        except ValueError as error:
            raise SeglstError(f"{path}: segment {number}: {error}") from error
    return checked


def read_seglst(path: str | Path, *, recording: str | None = None) -> dict[str, list[Segment]]:
    """Read who speaks when out of a SegLST file; the counterpart of ``read_rttm``, with the same result.

    Raises:
        SeglstError: as :func:`seglst_records`.
    """
    found: dict[str, list[Segment]] = {} if recording is None else {recording: []}
    for record in seglst_records(path):
        name = str(record.get("session_id", Path(path).name.split(".")[0]))
        if recording is None or name == recording:
            segment = Segment(record["start_time"], record["end_time"], str(record["speaker"]))
            found.setdefault(name, []).append(segment)
    return {name: merge_overlaps([s for s in segments if s.end > s.start]) for name, segments in found.items()}


def format_seglst(
    segments: Iterable[Segment],
    recording: str,
    words: Sequence[str] | None = None,
    further: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The segments as SegLST text, in the order given; `words`, and `further` keys, have one entry per segment.

    Raises:
        ValueError: there are more or fewer `words`, or groups of `further` keys, than segments.
    """
    rows = list(segments)
    texts = [""] * len(rows) if words is None else list(words)
    if len(texts) != len(rows):
        raise ValueError(f"`words` must have one entry per segment, {len(rows)}, but has {len(texts)}.")
    keys = [{}] * len(rows) if further is None else list(further)
    if len(keys) != len(rows):
        raise ValueError(f"`further` must have one entry per segment, {len(rows)}, but has {len(keys)}.")
    records = [
        {
            **more,
            "session_id": recording,
            "speaker": row.speaker,
            "start_time": round(row.start, 3),
            "end_time": round(row.end, 3),
            "words": text,
        }
        for row, text, more in zip(rows, texts, keys, strict=True)
    ]
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def write_seglst(
    path: str | Path,
    segments: Iterable[Segment],
    recording: str,
    words: Sequence[str] | None = None,
    further: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write one recording to a SegLST file, in place of what was there."""
    Path(path).write_text(format_seglst(segments, recording, words, further), encoding="utf-8")


def _check(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, but is a {type(record).__name__}.")
    for key in ("speaker", "start_time", "end_time"):
        if record.get(key) in (None, ""):
            raise ValueError(f"`{key}` is missing.")
    start, end = _seconds("start_time", record["start_time"]), _seconds("end_time", record["end_time"])
    if end < start:
        raise ValueError(f"`end_time` must not be before `start_time`, but is {end} after {start}.")
    return {**record, "start_time": start, "end_time": end}


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"`{name}` must be 0 or more seconds, but is {value!r}.")
    return seconds
