# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How many unreadable recordings a run survives: each is counted and named, and too many of them end it."""

import warnings

import torch

from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.rttm import RttmError
from nemo_sortformer.data.seglst import SeglstError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError
from nemo_sortformer.data.spoken_words import WordsError
from nemo_sortformer.data.targets import TooManySpeakersError

__all__ = ["DATA_ERRORS", "FailedRecordingWarning", "FailureLog", "TooManyFailuresError"]

DATA_ERRORS = (
    AudioError,
    ManifestError,
    RttmError,
    SeglstError,
    SpeakerTagError,
    TooManySpeakersError,
    WordsError,
    OSError,
)
"""What counts as a fault of the data; anything else is a fault of the program, and is never survived."""

_FEWEST = 100


class TooManyFailuresError(ValueError):
    """More recordings failed than the run may survive."""


class FailedRecordingWarning(UserWarning):
    """A recording is left out of the run."""


class FailureLog:
    """Counts failed recordings, in memory that the loader's worker processes share.

    Args:
        max_failed_share: largest share of the recordings that may fail, in [0, 1]; 0 raises the first error as it is.
        names: all recordings, where they are known beforehand. Otherwise the share is that of the recordings seen so
            far by this process, of at least 100, so that one early failure does not end a long run.
        what: what messages call them.
        hint: the end of the message that too many failed.

    Raises:
        ValueError: `max_failed_share` is outside [0, 1].
    """

    def __init__(
        self,
        max_failed_share: float,
        names: list[str] | None = None,
        *,
        what: str = "recordings",
        hint: str = "Run `nemo-sortformer validate` on the manifest to see all that is wrong.",
    ) -> None:
        if not 0 <= max_failed_share <= 1:
            raise ValueError(f"`max_failed_share` must be in [0, 1], but is {max_failed_share}.")
        self.max_failed_share = max_failed_share
        self.what, self.hint = what, hint
        self._names = names
        self._flags = torch.zeros(len(names or ()), dtype=torch.uint8).share_memory_()
        self._late_names: dict[str, None] = {}
        self.num_seen = 0

    @property
    def failed(self) -> list[str]:
        """The recordings that failed: in all processes if the names were known beforehand, else in this one."""
        if self._names is None:
            return list(self._late_names)
        return [self._names[index] for index in self._flags.nonzero()[:, 0].tolist()]

    def has_failed(self, index: int) -> bool:
        """Whether recording `index` of `names` failed before."""
        return bool(self._flags[index])

    def record(self, error: Exception, *, index: int | None = None, name: str = "") -> None:
        """Count one failure, and warn the first time that this recording fails.

        Args:
            error: what went wrong.
            index: place of the recording in `names`.
            name: the recording, where there are no `names`.

        Raises:
            TooManyFailuresError: more than the set share failed. At a share of 0, `error` itself.
        """
        if self.max_failed_share == 0:
            raise error
        if self._names is not None and index is not None:
            name, new, total = self._names[index], not self._flags[index], len(self._names)
            self._flags[index] = 1
            count = int(self._flags.sum())
        else:
            new = name not in self._late_names
            self._late_names[name] = None
            count, total = len(self._late_names), max(self.num_seen, _FEWEST)
        if new:
            warnings.warn(
                f"`{name}` is left out ({count} failed so far): {error}", FailedRecordingWarning, stacklevel=2
            )
        if count > self.max_failed_share * total:
            some = ", ".join(f"`{failed}`" for failed in self.failed[:10])
            raise TooManyFailuresError(
                f"{count} of {total} {self.what} failed, more than `max_failed_share` = {self.max_failed_share:g} "
                f"allows: {some}{' ...' if count > 10 else ''}. {self.hint}"
            ) from error
