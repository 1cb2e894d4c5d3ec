# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What SortFormer is compared with: state encoders and label heads of other papers, each usable by its `_target_`.

State encoders are called like those of :mod:`nemo_sortformer.modules`, `encoder.forward_with_labels(states, mask)`;
label heads are called `head(states=..., mask=...)` and give logits (batch, frames, slots). A head with losses of its
own offers `forward_with_losses(states, mask, labels)` too. EEND is `modules.TransformerStateEncoder` with the
permutation invariant loss, so it needs no class.
"""

from nemo_sortformer.baselines.attractor_head import AttractorHead
from nemo_sortformer.baselines.auxiliary_label_encoder import AuxiliaryLabelEncoder
from nemo_sortformer.baselines.deep_clustering_head import DeepClusteringHead
from nemo_sortformer.baselines.deep_sets_encoder import DeepSetsEncoder
from nemo_sortformer.baselines.pooling_head import PoolingHead
from nemo_sortformer.baselines.set_transformer_encoder import SetTransformerEncoder

__all__ = [
    "AttractorHead",
    "AuxiliaryLabelEncoder",
    "DeepClusteringHead",
    "DeepSetsEncoder",
    "PoolingHead",
    "SetTransformerEncoder",
]
