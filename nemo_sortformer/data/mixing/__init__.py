# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Conversations mixed on the fly from single-speaker utterances.

`pool` holds the voices, `conversation` plans who speaks when, `acoustics` adds room, noise and channel, `simulate`
puts the three together, and `dataset` feeds the result to training or writes it to files. `synthetic` makes voices,
and `recorded` adds real conversations: excerpts of them, and the sound of their rooms behind the mixed ones.

`utterances` lays out whole utterances instead, from `spoken_pool`, so that all words of a session are known.
"""

from nemo_sortformer.data.mixing.dataset import MixingDataset, build_pool, build_recorded, write_conversations
from nemo_sortformer.data.mixing.manifest_pool import pool_from_manifest
from nemo_sortformer.data.mixing.pool import PoolError, UtterancePool
from nemo_sortformer.data.mixing.recorded import RecordedConversations
from nemo_sortformer.data.mixing.simulate import simulate_conversation
from nemo_sortformer.data.mixing.spoken_pool import build_spoken_pool
from nemo_sortformer.data.mixing.synthetic import synthetic_pool
from nemo_sortformer.data.mixing.utterances import UtteranceMixingDataset, mix_session, write_sessions

__all__ = [
    "MixingDataset",
    "PoolError",
    "RecordedConversations",
    "UtteranceMixingDataset",
    "UtterancePool",
    "build_pool",
    "build_recorded",
    "build_spoken_pool",
    "mix_session",
    "pool_from_manifest",
    "simulate_conversation",
    "synthetic_pool",
    "write_conversations",
    "write_sessions",
]
