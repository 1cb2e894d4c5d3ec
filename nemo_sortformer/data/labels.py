# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labels of a manifest entry, wherever they stand: RTTM, SegLST, or one speaker for the whole file."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from nemo_sortformer.data.manifest import ManifestEntry, ManifestError
from nemo_sortformer.data.rttm import read_rttm, select_recording
from nemo_sortformer.data.seglst import read_seglst
from nemo_sortformer.data.segment import Segment

__all__ = ["LabelReader"]


_KEPT_FILES = 16


class LabelReader:
    """Reads label files and keeps the latest few, as one RTTM file often holds all recordings of a data set."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, dict[str, list[Segment]]] = OrderedDict()

    def entry(self, entry: ManifestEntry) -> list[Segment]:
        """The segments of the whole recording that `entry` is a stretch of, sorted by start.

        RTTM wins over SegLST where an entry names both.

        Raises:
            ManifestError: the entry names no label file.
            RttmError, SeglstError: the file cannot be used.
        """
        if entry.rttm_filepath is not None:
            return self.rttm(entry.rttm_filepath, entry.recording_names)
        if entry.seglst_filepath is not None:
            return self.seglst(entry.seglst_filepath, entry.recording_names)
        raise ManifestError(
            f"{entry.source or entry.audio_filepath}: has neither `rttm_filepath` nor `seglst_filepath`, so nobody "
            f"knows who speaks. An empty RTTM file stands for a recording without speech."
        )

    def rttm(self, path: Path, names: Iterable[str]) -> list[Segment]:
        """The segments of the recording that is called one of `names` in an RTTM file."""
        return self._select(read_rttm, path, names)

    def seglst(self, path: Path, names: Iterable[str]) -> list[Segment]:
        """The segments of the recording that is called one of `names` in a SegLST file."""
        return self._select(read_seglst, path, names)

    def _select(
        self, read: Callable[[Path], dict[str, list[Segment]]], path: Path, names: Iterable[str]
    ) -> list[Segment]:
        if path not in self._files:
            self._files[path] = read(path)
            if len(self._files) > _KEPT_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return select_recording(self._files[path], names, source=path)
