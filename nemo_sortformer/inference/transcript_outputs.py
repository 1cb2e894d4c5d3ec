# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from nemo_sortformer.inference.outputs import write_whole
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcript import Transcript, utterance_segments

TRANSCRIPT_ENDINGS = {
    "txt": ".txt",
    "seglst": ".seglst.json",
    "stm": ".stm",
    "ctm": ".ctm",
    "srt": ".srt",
    "vtt": ".vtt",
    "rttm": ".rttm",
    "png": ".words.png",
}
"""What a format's files are called: the recording's name and this."""


def write_transcript(
    transcript: Transcript, paths: Mapping[str, Path], *, names: Mapping[str, str] | None = None
) -> None:
    """Write a transcript in each format of `paths`; folders are made, and no file is ever there in part.

    `rttm` is the diarization, or, where there is none, when words are said.

    Raises:
        OSError: a file cannot be written.
    """
    heard = transcript.diarization or Diarization(
        recording=transcript.recording, segments=utterance_segments(transcript.words), duration=transcript.duration
    )
    writers: dict[str, Callable[[Path], object]] = {
        "txt": partial(transcript.to_text, names=names, times=True),
        "seglst": partial(transcript.to_seglst, names=names),
        "stm": partial(transcript.to_stm, names=names),
        "ctm": partial(transcript.to_ctm, names=names),
        "srt": partial(transcript.to_srt, names=names),
        "vtt": partial(transcript.to_vtt, names=names),
        "rttm": heard.to_rttm,
        "png": partial(transcript.plot, names=names),
    }
    write_whole({path: writers[kind] for kind, path in paths.items()})
