# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""torchmetrics that sum counts over batches and ranks and divide once, so that no result depends on the batch size."""

from nemo_sortformer.metrics.cpwer import ConcatenatedPermutationWER
from nemo_sortformer.metrics.der import DiarizationErrorRate
from nemo_sortformer.metrics.frame_f1 import FrameF1
from nemo_sortformer.metrics.speaker_count import SpeakerCountAccuracy

__all__ = ["ConcatenatedPermutationWER", "DiarizationErrorRate", "FrameF1", "SpeakerCountAccuracy"]
