# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labeling model: which classes are active when, in any sequence of embeddings."""

from nemo_sortformer.models.labeler.model import LabelerOutput, SortformerLabeler

__all__ = ["LabelerOutput", "SortformerLabeler"]
