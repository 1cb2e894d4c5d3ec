# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""SortFormer speaker diarization as a plug-in collection for NVIDIA NeMo.

The public names below load on first use: importing this package imports neither torch nor NeMo.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nemo_sortformer.foreign_packages import hide_foreign_apex

__version__ = "0.1.0"

hide_foreign_apex()  # before NeMo, whose import it could break

_HOMES = {
    "nemo_sortformer.functional.arrival": ("arrival_order", "sort_by_arrival"),
    "nemo_sortformer.functional.losses": (
        "affinity_loss",
        "permutation_invariant_loss",
        "sorted_label_cross_entropy",
    ),
    "nemo_sortformer.modules": (
        "AffinityHead",
        "LabelHead",
        "SortformerEncoder",
        "SpeakerHead",
        "TransformerStateEncoder",
    ),
    "nemo_sortformer.losses": ("AffinityLoss", "SortedLabelLoss"),
    "nemo_sortformer.metrics": (
        "ConcatenatedPermutationWER",
        "DiarizationErrorRate",
        "FrameF1",
        "SpeakerCountAccuracy",
    ),
    "nemo_sortformer.data.segment": ("Segment",),
    "nemo_sortformer.data.audio": ("read_audio",),
    "nemo_sortformer.data.rttm": ("read_rttm", "write_rttm"),
    "nemo_sortformer.data.seglst": ("read_seglst", "write_seglst"),
    "nemo_sortformer.data.manifest": ("read_manifest",),
    "nemo_sortformer.data.validate": ("validate_manifest",),
    "nemo_sortformer.data.embeddings": ("ArrayDataset", "EmbeddingDataset"),
    "nemo_sortformer.models.diarizer": ("SortformerDiarizer",),
    "nemo_sortformer.models.joint_asr": ("SortformerJointASR",),
    "nemo_sortformer.models.labeler": ("SortformerLabeler",),
    "nemo_sortformer.inference.checkpoint": ("load_shipped",),
    "nemo_sortformer.inference.results": ("Diarization",),
    "nemo_sortformer.inference.diarize": ("DiarizationError", "diarize_files"),
    "nemo_sortformer.inference.stream_transcribe": ("TranscriptUpdate", "stream_with_speakers"),
    "nemo_sortformer.inference.transcribe": ("TranscriptionError", "transcribe_with_speakers"),
    "nemo_sortformer.inference.transcript": ("TranscribedWord", "Transcript"),
    "nemo_sortformer.inference.word_speakers": ("assign_speakers",),
    "nemo_sortformer.inference.stream": ("BatchedStreamer", "StreamState", "StreamUpdate", "Streamer", "stream"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AffinityHead",
    "AffinityLoss",
    "ArrayDataset",
    "BatchedStreamer",
    "ConcatenatedPermutationWER",
    "Diarization",
    "DiarizationError",
    "DiarizationErrorRate",
    "EmbeddingDataset",
    "FrameF1",
    "LabelHead",
    "Segment",
    "SortedLabelLoss",
    "SortformerDiarizer",
    "SortformerEncoder",
    "SortformerJointASR",
    "SortformerLabeler",
    "SpeakerCountAccuracy",
    "SpeakerHead",
    "StreamState",
    "StreamUpdate",
    "Streamer",
    "TranscribedWord",
    "Transcript",
    "TranscriptUpdate",
    "TranscriptionError",
    "TransformerStateEncoder",
    "__version__",
    "affinity_loss",
    "arrival_order",
    "assign_speakers",
    "diarize_files",
    "load_shipped",
    "permutation_invariant_loss",
    "read_audio",
    "read_manifest",
    "read_rttm",
    "read_seglst",
    "sort_by_arrival",
    "sorted_label_cross_entropy",
    "stream",
    "stream_with_speakers",
    "transcribe_with_speakers",
    "validate_manifest",
    "write_rttm",
    "write_seglst",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name, the first time the name is asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    home = _HOME_OF[name]
    value = getattr(importlib.import_module(home), name)
    if home.startswith("nemo_sortformer.models"):  # a script that trains may say `trainer.strategy=nemo_sortformer`
        importlib.import_module("nemo_sortformer.distributed")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from nemo_sortformer.data.audio import read_audio
    from nemo_sortformer.data.embeddings import ArrayDataset, EmbeddingDataset
    from nemo_sortformer.data.manifest import read_manifest
    from nemo_sortformer.data.rttm import read_rttm, write_rttm
    from nemo_sortformer.data.seglst import read_seglst, write_seglst
    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.data.validate import validate_manifest
    from nemo_sortformer.functional.arrival import arrival_order, sort_by_arrival
    from nemo_sortformer.functional.losses import (
        affinity_loss,
        permutation_invariant_loss,
        sorted_label_cross_entropy,
    )
    from nemo_sortformer.inference.checkpoint import load_shipped
    from nemo_sortformer.inference.diarize import DiarizationError, diarize_files
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.stream import BatchedStreamer, Streamer, StreamState, StreamUpdate, stream
    from nemo_sortformer.inference.stream_transcribe import TranscriptUpdate, stream_with_speakers
    from nemo_sortformer.inference.transcribe import TranscriptionError, transcribe_with_speakers
    from nemo_sortformer.inference.transcript import TranscribedWord, Transcript
    from nemo_sortformer.inference.word_speakers import assign_speakers
    from nemo_sortformer.losses import AffinityLoss, SortedLabelLoss
    from nemo_sortformer.metrics import ConcatenatedPermutationWER, DiarizationErrorRate, FrameF1, SpeakerCountAccuracy
    from nemo_sortformer.models.diarizer import SortformerDiarizer
    from nemo_sortformer.models.joint_asr import SortformerJointASR
    from nemo_sortformer.models.labeler import SortformerLabeler
    from nemo_sortformer.modules import (
        AffinityHead,
        LabelHead,
        SortformerEncoder,
        SpeakerHead,
        TransformerStateEncoder,
    )
