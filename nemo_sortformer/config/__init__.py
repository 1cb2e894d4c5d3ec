# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Typed settings: every default, its meaning and its check."""

from nemo_sortformer.config.data import DatasetConfig
from nemo_sortformer.config.diarizer import AffinityConfig, DiarizerConfig, DiarizerLossConfig
from nemo_sortformer.config.inference import ClusteringConfig, InferenceConfig, PostProcessingConfig
from nemo_sortformer.config.joint_data import JointDatasetConfig
from nemo_sortformer.config.labeler import EmbeddingDatasetConfig, LabelerConfig, LabelKindConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg
from nemo_sortformer.config.parallel import ParallelConfig
from nemo_sortformer.config.streaming import LATENCIES, StreamingConfig
from nemo_sortformer.config.utterances import UtteranceMixingConfig

__all__ = [
    "AffinityConfig",
    "ClusteringConfig",
    "ConfigError",
    "DatasetConfig",
    "DiarizerConfig",
    "DiarizerLossConfig",
    "EmbeddingDatasetConfig",
    "InferenceConfig",
    "JointDatasetConfig",
    "LATENCIES",
    "LabelKindConfig",
    "LabelerConfig",
    "ParallelConfig",
    "PostProcessingConfig",
    "StreamingConfig",
    "UtteranceMixingConfig",
    "from_cfg",
]
