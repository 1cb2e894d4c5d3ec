# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The diarization model: who speaks when."""

from nemo_sortformer.models.diarizer.model import DiarizerOutput, SortformerDiarizer

__all__ = ["DiarizerOutput", "SortformerDiarizer"]
