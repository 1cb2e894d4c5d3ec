# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who said what, when: diarization and speech recognition on one encoder."""

from nemo_sortformer.models.joint_asr.model import SortformerJointASR

__all__ = ["SortformerJointASR"]
