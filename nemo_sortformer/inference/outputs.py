# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Results as files: which file each recording gets, and that no file of the user's is lost to one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource

if TYPE_CHECKING:
    from nemo_sortformer.data.embedding_files import EmbeddingEntry

ENDINGS = {"rttm": ".rttm", "json": ".seglst.json", "audacity": ".labels.txt", "png": ".png"}
"""What a format's files are called: the recording's name and this."""


def check_formats(formats: Sequence[str]) -> list[str]:
    """The formats once each.

    Raises:
        ValueError: one is unknown, or there are none.
    """
    chosen = list(dict.fromkeys(name.strip().lower() for name in formats if name.strip()))
    wrong = [name for name in chosen if name not in ENDINGS]
    if wrong or not chosen:
        found = f"`{wrong[0]}` is among them" if wrong else "there are none"
        raise ValueError(f"`format` must be of {', '.join(ENDINGS)}, separated by commas, but {found}.")
    return chosen


def output_paths(
    source: AudioSource | EmbeddingEntry, formats: Sequence[str], folder: str | Path | None = None
) -> dict[str, Path]:
    """Where each format of a recording goes: into `folder`, or beside the audio where that is None.

    Files are called by the recording's name, which is unique in a run, with `/` and its like replaced.
    """
    name = "".join("_" if character in '/\\:*?"<>|' else character for character in source.name)
    place = Path(folder) if folder is not None else (source.path.parent if source.path is not None else Path())
    return {kind: place / f"{name}{ENDINGS[kind]}" for kind in formats}


def blocked_output(source: AudioSource | EmbeddingEntry, paths: dict[str, Path], *, overwrite: bool) -> str | None:
    """Why the outputs of a recording must not be written, or None.

    Existing files stay unless `overwrite`; the truth that a manifest names stays in any case.
    """
    for path in paths.values():
        if source.rttm_filepath is not None and path.absolute() == source.rttm_filepath.absolute():
            return f"`{path}` is the reference that the manifest names. Choose another folder (`--output-dir`)."
        if path.exists() and not overwrite:
            return f"`{path}` is there already. Replace it with `--overwrite`, or choose a folder with `--output-dir`."
    return None


def write_result(result: Diarization, paths: dict[str, Path], *, reference: Sequence[Segment] | None = None) -> None:
    """Write a result in each format of `paths`; folders are made."""
    writers = {"rttm": result.to_rttm, "json": result.to_seglst, "audacity": result.to_audacity}
    for kind, path in paths.items():
        if kind == "png":
            result.plot(path, reference=reference)
        else:
            writers[kind](path)
