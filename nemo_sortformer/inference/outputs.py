# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Results as files: which file each recording gets, and that no file of the user's is lost to one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource

if TYPE_CHECKING:
    from nemo_sortformer.data.embedding_files import EmbeddingEntry

KEPT_SECONDS = 300.0
"""The work on recordings longer than this is kept while it is done."""
ENDINGS = {"rttm": ".rttm", "json": ".seglst.json", "audacity": ".labels.txt", "png": ".png"}
"""What a format's files are called: the recording's name and this."""


def check_formats(formats: Sequence[str], endings: Mapping[str, str] = ENDINGS) -> list[str]:
    """The formats once each, all of which are among `endings`.

    Raises:
        ValueError: one is unknown, or there are none.
    """
    chosen = list(dict.fromkeys(name.strip().lower() for name in formats if name.strip()))
    wrong = [name for name in chosen if name not in endings]
    if wrong or not chosen:
        found = f"`{wrong[0]}` is among them" if wrong else "there are none"
        raise ValueError(f"`format` must be of {', '.join(endings)}, separated by commas, but {found}.")
    return chosen


def output_paths(
    source: AudioSource | EmbeddingEntry,
    formats: Sequence[str],
    folder: str | Path | None = None,
    endings: Mapping[str, str] = ENDINGS,
) -> dict[str, Path]:
    """Where each format of a recording goes: into `folder`, or beside the audio where that is None.

    Files are called by the recording's name, which is unique in a run, with `/` and its like replaced.
    """
    return {kind: _named(source, folder, endings[kind]) for kind in formats}


def _named(source: AudioSource, folder: str | Path | None, ending: str) -> Path:
    name = "".join("_" if character in '/\\:*?"<>|' else character for character in source.name)
    place = Path(folder) if folder is not None else (source.path.parent if source.path is not None else Path())
    return place / f"{name}{ending}"


def blocked_output(source: AudioSource | EmbeddingEntry, paths: dict[str, Path], *, overwrite: bool) -> str | None:
    """Why the outputs of a recording must not be written, or None.

    Existing files stay unless `overwrite`; the truth that a manifest names stays in any case.
    """
    truths = (source.rttm_filepath, getattr(source, "seglst_filepath", None))
    for path in paths.values():
        if any(truth is not None and path.absolute() == truth.absolute() for truth in truths):
            return f"`{path}` is the reference that the manifest names. Choose another folder (`--output-dir`)."
        if path.exists() and not overwrite:
            return f"`{path}` is there already. Replace it with `--overwrite`, or choose a folder with `--output-dir`."
    return None


def partial_path(source: AudioSource, *, folder: str | Path | None = None) -> Path | None:
    """Where the work done on a long recording is kept; None where the recording is short, or its length unknown."""
    try:
        long = source.seconds() > KEPT_SECONDS
    except (ValueError, OSError, RuntimeError):
        return None
    return _named(source, folder, ".partial") if long else None


def remove_partial(path: Path | None) -> None:
    """The recording is done: its half-done work is not needed any more."""
    if path is not None:
        path.unlink(missing_ok=True)


def write_result(result: Diarization, paths: dict[str, Path], *, reference: Sequence[Segment] | None = None) -> None:
    """Write a result in each format of `paths`; folders are made.

    A file is there whole or as it was before: each is written under another name first, so that a full disk or a
    killed process costs no result that was there.

    Raises:
        OSError: a file cannot be written.
    """
    writers: dict[str, Callable[[Path], object]] = {
        "rttm": result.to_rttm,
        "json": result.to_seglst,
        "audacity": result.to_audacity,
        "png": partial(result.plot, reference=reference),
    }
    write_whole({path: writers[kind] for kind, path in paths.items()})


def write_whole(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files, each under another name first; see :func:`write_result`.

    Raises:
        OSError: a file cannot be written.
    """
    for path, write in writers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")  # its ending says the format of a picture
        try:
            write(aside)
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
