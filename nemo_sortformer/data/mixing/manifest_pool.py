# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Reads a pool of voices from a manifest of single-speaker utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.manifest import ManifestEntry, read_manifest
from nemo_sortformer.data.mixing.pool import SAMPLE_RATE, PoolError, Recording, UtterancePool
from nemo_sortformer.data.word_reader import entry_speech


def pool_from_manifest(
    path: str | Path,
    *,
    split: str | None = None,
    exclude_sources: Sequence[str] = (),
    min_seconds: float = 0.25,
) -> UtterancePool:
    """Read all utterances of a manifest into memory, 32 kB per second of speech.

    Args:
        path: JSON lines with `audio_filepath` (or `audio`; relative to the manifest) and `speaker`; optional are
            `offset`, `duration`, `speech_start` and `speech_end` (seconds from the start of the file, the part that is
            speech), `split` and `source`.
        split: keep only the lines of this split.
        exclude_sources: leave out the lines of these sources.
        min_seconds: leave out shorter utterances, seconds.

    Raises:
        ManifestError: a line cannot be read.
        AudioError: a recording cannot be read.
        PoolError: a line that is kept has no speaker, or no line is kept.
    """
    chosen = choose_entries(path, split=split, exclude_sources=exclude_sources)
    return UtterancePool(_recordings(Path(path), chosen), min_seconds=min_seconds)


def choose_entries(
    path: str | Path, *, split: str | None = None, sources: Sequence[str] = (), exclude_sources: Sequence[str] = ()
) -> list[ManifestEntry]:
    """Read the lines of a manifest that are of a split and of certain sources.

    Raises:
        ManifestError: a line cannot be read.
        PoolError: no line is left, or one that is has no speaker.
    """
    chosen = [
        entry
        for entry in read_manifest(path)
        if (split is None or entry.extra.get("split") == split)
        and (not sources or entry.extra.get("source") in sources)
        and entry.extra.get("source") not in exclude_sources
    ]
    if not chosen:
        only = f", `sources` {list(sources)}" if sources else ""
        raise PoolError(
            f"{path}: `split` {split!r}{only} and `exclude_sources` {list(exclude_sources)} leave no line."
        )
    for entry in chosen:
        if not entry.speaker:
            raise PoolError(
                f"{path}: `{entry.audio_filepath}` has no `speaker`. Mixing needs to know who speaks: give every line "
                "a `speaker` key."
            )
    return chosen


def _recordings(path: Path, entries: list[ManifestEntry]) -> Iterator[Recording]:
    for entry in entries:
        offset, end = entry_speech(entry)
        duration = None if end is None else end - offset
        if duration is not None and duration < 2 / 100:
            continue
        samples = read_audio(entry.audio_filepath, offset=offset, duration=duration, sample_rate=SAMPLE_RATE)
        yield Recording(str(entry.speaker), str(entry.extra.get("source", path.stem)), samples)
