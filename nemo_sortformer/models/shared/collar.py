# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""DER of the segments that `diarize` would give, with a collar: what a paper's table has, at the end of validation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from nemo_sortformer.config import InferenceConfig
from nemo_sortformer.functional.segments import active_segments


class CollarErrorRate(Metric):
    """DER by pyannote.metrics, overlap scored, seconds summed over recordings, batches and ranks before one division.

    Slower than the frame DER, as it works on segments, one recording after another.

    Args:
        collar: seconds left out on each side of each boundary of the reference.
        frame_seconds: seconds per frame.
        config: the post-processing of the probabilities.
    """

    full_state_update, higher_is_better, is_differentiable = False, False, False
    seconds: Tensor

    def __init__(self, *, collar: float, frame_seconds: float, config: InferenceConfig) -> None:
        super().__init__()
        self.collar, self.frame_seconds, self.config = collar, frame_seconds, config
        self.add_state("seconds", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor, lengths: Tensor) -> None:
        """Add recordings: probabilities and labels (batch, frames, slots), lengths (batch,)."""
        from pyannote.core import Segment, Timeline
        from pyannote.metrics.diarization import DiarizationErrorRate

        rate = DiarizationErrorRate(collar=2 * self.collar, skip_overlap=False)  # pyannote means the whole width
        rows = zip(probs.detach().float().cpu().numpy(), labels.cpu().numpy(), lengths.tolist())
        for row_probs, row_labels, num_frames in rows:
            end = num_frames * self.frame_seconds
            truth = self._segments(row_labels[:num_frames], InferenceConfig())
            guess = self._segments(row_probs[:num_frames], self.config)
            counts = rate.compute_components(_annotation(truth), _annotation(guess), uem=Timeline([Segment(0.0, end)]))
            errors = counts["missed detection"] + counts["false alarm"] + counts["confusion"]
            self.seconds += torch.tensor([errors, counts["total"]], dtype=torch.float64, device=self.seconds.device)

    def _segments(self, activity: NDArray[np.float32], config: InferenceConfig) -> list[NDArray[np.float64]]:
        options = config.segment_options()
        end = len(activity) * self.frame_seconds
        return active_segments(activity, frame_seconds=self.frame_seconds, max_seconds=end, **options)

    def compute(self) -> Tensor:
        """The rate, a scalar; 0 where nobody speaks and nobody is found."""
        errors, total = self.seconds
        return torch.where(errors == 0, errors, errors / total).float()


def _annotation(segments: list[NDArray[np.float64]]):  # noqa: ANN202 - pyannote is imported only where it is used
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for speaker, spans in enumerate(segments):
        for number, (start, end) in enumerate(spans):
            annotation[Segment(float(start), float(end)), number] = f"speaker_{speaker}"
    return annotation
