# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""All that is wrong with a manifest and the files it names, found before a training run finds it one by one."""

import warnings
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nemo_sortformer.data.audio import AudioError, audio_info, read_audio
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import ManifestEntry, ManifestError, iter_manifest
from nemo_sortformer.data.rttm import RttmError, rttm_problems
from nemo_sortformer.data.seglst import SeglstError
from nemo_sortformer.data.segment import Segment, merge_overlaps

__all__ = ["ManifestSummary", "Problem", "ValidationReport", "validate_manifest"]

_SLACK_SECONDS = 0.1


class Problem(NamedTuple):
    """One thing that is wrong, at one line of a manifest or of a file that it names."""

    file: Path
    line: int | None
    """None: the whole file."""
    message: str
    severity: Literal["error", "warning"] = "error"
    """A run fails on an error (or counts it); a warning is odd, but used."""

    def __str__(self) -> str:
        place = f"{self.file}" if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.severity}: {self.message}"


class ManifestSummary(NamedTuple):
    """What a manifest holds, as far as it can be read."""

    recordings: int
    """Entries, those with problems included."""
    hours: float
    speakers: int
    """Different speaker names per recording, summed: names need not mean the same in two recordings."""
    speech_hours: float
    """Time in which somebody speaks."""
    overlap_share: float
    """Part of that time in which two or more do, in [0, 1]."""
    most_speakers: int
    """In one entry."""


class ValidationReport(list[Problem]):
    """The problems of a manifest, in its order, with a `summary` of what it holds."""

    summary: ManifestSummary

    @property
    def errors(self) -> list[Problem]:
        """The problems without the warnings."""
        return [problem for problem in self if problem.severity == "error"]


class _Totals:
    def __init__(self) -> None:
        self.recordings, self.speakers, self.most = 0, 0, 0
        self.seconds = self.speech = self.overlap = 0.0


def validate_manifest(
    path: str | Path, num_slots: int = 4, *, session_len_sec: float | None = None, decode: bool = True
) -> ValidationReport:
    """Check every line of a manifest, and every audio and label file that it names, without stopping at the first.

    Args:
        path: the manifest.
        num_slots: speakers that the model can tell apart.
        session_len_sec: with windows of this length more speakers than slots in a recording are a warning, as each
            window may have few enough.
        decode: read all samples, which finds truncated, NaN and clipped audio; otherwise only headers are read.
    """
    path = Path(path).expanduser().absolute()
    report, totals, labels = ValidationReport(), _Totals(), LabelReader()
    entries: list[tuple[int, ManifestEntry]] = []
    checked_labels: set[Path] = set()
    for item in iter_manifest(path):
        if isinstance(item, ManifestError):
            report.append(_from_error(item, path))
            continue
        line = int(item.source.rpartition(":")[2])
        entries.append((line, item))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seconds = _check_audio(report, path, line, item, decode=decode)
            segments = _check_labels(report, path, line, item, labels, checked_labels)
        report.extend(Problem(path, line, str(warning.message), "warning") for warning in caught)
        totals.recordings += 1
        totals.seconds += seconds or 0.0
        if segments is not None:
            window_only = session_len_sec is not None
            _check_segments(report, path, line, item, segments, seconds, num_slots, window_only, totals)
    _check_repetitions(report, path, entries)
    if not entries and not report:
        report.append(Problem(path, None, "has no entries."))
    report.sort(key=lambda problem: (problem.file != path, str(problem.file), problem.line or 0))
    report.summary = ManifestSummary(
        recordings=totals.recordings,
        hours=totals.seconds / 3600,
        speakers=totals.speakers,
        speech_hours=totals.speech / 3600,
        overlap_share=totals.overlap / totals.speech if totals.speech else 0.0,
        most_speakers=totals.most,
    )
    return report


def _check_audio(report: list[Problem], path: Path, line: int, entry: ManifestEntry, *, decode: bool) -> float | None:
    """Seconds of the stretch that can be read, None if it cannot."""
    try:
        if decode:
            return len(read_audio(entry.audio_filepath, offset=entry.offset, duration=entry.duration)) / 16000
        seconds = audio_info(entry.audio_filepath).seconds
        end = seconds if entry.duration is None else entry.offset + entry.duration
        if entry.offset >= seconds or end > seconds + _SLACK_SECONDS:
            raise AudioError(
                f"{entry.audio_filepath}: `offset` and `duration` mean {entry.offset:.3f}-{end:.3f} s, but the file "
                f"ends at {seconds:.3f} s."
            )
        return min(end, seconds) - entry.offset
    except AudioError as error:
        report.append(Problem(path, line, str(error)))
        return None


def _check_labels(
    report: list[Problem], path: Path, line: int, entry: ManifestEntry, labels: LabelReader, checked: set[Path]
) -> list[Segment] | None:
    rttm = entry.rttm_filepath
    if rttm is not None and rttm not in checked:
        checked.add(rttm)
        if rttm.exists():
            report.extend(_from_error(error, rttm) for error in rttm_problems(rttm))
    try:
        return labels.entry(entry)
    except (ManifestError, RttmError, SeglstError) as error:
        if rttm is None or not any(problem.file == rttm for problem in report):
            message = str(error).removeprefix(f"{entry.source}: ")
            report.append(Problem(path, line, message))
        return None


def _check_segments(
    report: list[Problem],
    path: Path,
    line: int,
    entry: ManifestEntry,
    segments: list[Segment],
    seconds: float | None,
    num_slots: int,
    windows: bool,
    totals: _Totals,
) -> None:
    end = entry.offset + seconds if seconds is not None else np.inf
    inside = [s for s in segments if s.end > entry.offset and s.start < end]
    names = {segment.speaker for segment in inside}
    totals.speakers += len(names)
    totals.most = max(totals.most, len(names))
    speech, overlap = _speech_and_overlap(inside, entry.offset, end)
    totals.speech += speech
    totals.overlap += overlap

    def warn(message: str, severity: Literal["error", "warning"] = "warning") -> None:
        report.append(Problem(path, line, message, severity))

    whole = entry.offset == 0 and entry.duration is None
    last = max((segment.end for segment in segments), default=0.0)
    if len(names) > num_slots:
        warn(
            f"{len(names)} speakers, but the model has {num_slots} slots. Set `max_num_of_spks` to {len(names)} or "
            f"more, leave the recording out, or set `keep_earliest_speakers: true`.",
            "warning" if windows else "error",
        )
    if not inside:
        warn("nobody speaks according to the labels.")
    elif whole and last > end + _SLACK_SECONDS:
        warn(f"the labels reach to {last:.3f} s, but the audio ends at {end:.3f} s. Do they belong together?")
    if entry.num_speakers is not None and entry.num_speakers != len(names) and whole:
        warn(f"`num_speakers` is {entry.num_speakers}, but the labels name {len(names)}.")


def _check_repetitions(report: list[Problem], path: Path, entries: list[tuple[int, ManifestEntry]]) -> None:
    stretches: dict[tuple[Path, float, float | None], int] = {}
    by_name: defaultdict[str, dict[Path, int]] = defaultdict(dict)
    for line, entry in entries:
        audio = entry.audio_filepath
        first = stretches.setdefault((audio, entry.offset, entry.duration), line)
        if first != line:
            report.append(Problem(path, line, f"{audio}: the same stretch is given in line {first}.", "warning"))
        others = by_name[audio.stem]
        if audio not in others and others:
            other, number = next(iter(others.items()))
            message = f"{audio} has the name of {other} (line {number}); the folder is put before its `uniq_id`."
            report.append(Problem(path, line, message, "warning"))
        others.setdefault(audio, line)


def _speech_and_overlap(segments: list[Segment], start: float, end: float) -> tuple[float, float]:
    """Seconds in which one or more, and two or more, speak between `start` and `end`."""
    if not segments:
        return 0.0, 0.0
    times = np.array([(s.start, s.end) for s in merge_overlaps(segments)]).clip(start, end)
    edges = times.ravel()
    order = np.argsort(edges, kind="stable")
    talking = np.cumsum(np.tile([1, -1], len(times))[order])[:-1]
    lengths = np.diff(edges[order])
    return float(lengths[talking >= 1].sum()), float(lengths[talking >= 2].sum())


def _from_error(error: ValueError, file: Path) -> Problem:
    """Split ``file:line: what`` into its parts."""
    text = str(error).removeprefix(str(file))
    line, _, message = text.removeprefix(":").partition(":")
    if text.startswith(":") and line.isdigit():
        return Problem(file, int(line), message.strip())
    return Problem(file, None, text.removeprefix(":").strip())
