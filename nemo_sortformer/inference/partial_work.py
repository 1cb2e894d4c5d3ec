# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is done of a long recording, on the disk: a run that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nemo_sortformer.inference.windows import Outputs

_MAGIC = b"nemo_sortformer partial work 1\n"
_NUMBER = 8
"""Bytes of a length or a checksum."""
ENDING = ".partial"
"""What such a file is called, behind the recording's name."""


class PartialWorkWarning(UserWarning):
    """What was done could not be kept; the run itself goes on."""


class PartialWork:
    """A file that grows by the model's outputs, step by step, and gives them back in the same order.

    A record is whole or does not count: it has its length and checksum, and whatever follows the last good one is cut
    off. A file of another recording, model or setting is begun anew; one that is no such file is not touched.

    Args:
        path: the file; its folder is made.
        identity: what must be equal for outputs to be used again.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        header = _MAGIC + json.dumps(identity, sort_keys=True, default=str).encode() + b"\n"
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b")  # noqa: SIM115 (held for as long as this object lives)
            if not _lock(file):
                file.close()
                self._give_up("another run works on the same recording")
                return
            file.seek(0)
            found = file.read(len(header))
            if found and not found.startswith(_MAGIC):
                file.close()
                self._give_up("it is a file of another kind")
                return
            if found != header:
                file.truncate(0)
                file.write(header)
                file.flush()
            self._file, self._good, self._reading = file, len(header), True
        except OSError as error:
            self._give_up(str(error))

    def __enter__(self) -> PartialWork:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def next(self) -> list[Outputs] | None:
        """The outputs of the next step that was done before, or None where the work begins."""
        if self._file is None or not self._reading:
            return None
        self._file.seek(self._good)
        head = self._file.read(2 * _NUMBER)
        length, checksum = int.from_bytes(head[:_NUMBER], "big"), int.from_bytes(head[_NUMBER:], "big")
        body = self._file.read(length) if len(head) == 2 * _NUMBER and length < 1 << 40 else b""
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            self._reading = False
            return None
        self._good += 2 * _NUMBER + length
        return _outputs_of(body)

    def add(self, outputs: list[Outputs]) -> None:
        """Keep the outputs of a step; where the disk is full, say so once and keep nothing more."""
        if self._file is None:
            return
        body = _bytes_of(outputs)
        try:
            if self._file.seek(0, os.SEEK_END) != self._good:
                self._file.truncate(self._good)
            self._file.write(len(body).to_bytes(_NUMBER, "big") + zlib.crc32(body).to_bytes(_NUMBER, "big") + body)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._give_up(str(error))
            return
        self._reading = False
        self._good += 2 * _NUMBER + len(body)

    def _give_up(self, why: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # it cannot write its last bytes, which is what is being reported
                self._file.close()
            self._file = None
        message = f"`{self.path}` cannot be written ({why}): if this run is stopped, it starts from the beginning."
        warnings.warn(message, PartialWorkWarning, stacklevel=3)


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else has the file; where the system has no locks, nobody has."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _bytes_of(outputs: list[Outputs]) -> bytes:
    arrays = {
        f"{i}/{name}": array
        for i, output in enumerate(outputs)
        for name, array in output._asdict().items()
        if array is not None
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _outputs_of(body: bytes) -> list[Outputs]:
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            found.setdefault(int(number), {})[name] = arrays[key]
    return [Outputs(**{"embeddings": None, **found[i]}) for i in sorted(found)]
