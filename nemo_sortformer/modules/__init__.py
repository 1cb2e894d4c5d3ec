# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Neural modules with plain arguments and NeMo's typed ports: state encoders, heads, permutation encoding.

The two state encoders are called alike, `encoder(encoder_states=..., encoder_mask=...)`, and each can be a
`_target_` in a NeMo YAML.
"""

from nemo_sortformer.modules.activity_head import ActivityHead
from nemo_sortformer.modules.affinity_head import AffinityHead
from nemo_sortformer.modules.label_head import LabelHead, LabelHeads
from nemo_sortformer.modules.permutation_encoding import PermutationEncoding
from nemo_sortformer.modules.sortformer_encoder import SortformerEncoder
from nemo_sortformer.modules.speaker_head import SpeakerHead
from nemo_sortformer.modules.transformer_state_encoder import TransformerStateEncoder

__all__ = [
    "ActivityHead",
    "AffinityHead",
    "LabelHead",
    "LabelHeads",
    "PermutationEncoding",
    "SortformerEncoder",
    "SpeakerHead",
    "TransformerStateEncoder",
]
