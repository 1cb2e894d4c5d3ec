# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo ``Loss`` modules around ``nemo_sortformer.functional``: ports and weights, no arithmetic of their own."""

from nemo_sortformer.losses.affinity_loss import AffinityLoss
from nemo_sortformer.losses.sorted_label_loss import SortedLabelLoss
from nemo_sortformer.losses.sorted_probability_loss import SortedProbabilityLoss

__all__ = ["AffinityLoss", "SortedLabelLoss", "SortedProbabilityLoss"]
