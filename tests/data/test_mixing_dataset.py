# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The data set of mixed conversations: repeatable by its numbers, over workers and ranks; as files; its settings."""

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from nemo_sortformer.config.merge import ConfigError, from_cfg
from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.batch import collate
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.mixing import MixingDataset, UtterancePool, simulate_conversation, write_conversations
from nemo_sortformer.data.rttm import read_rttm
from nemo_sortformer.data.targets import frame_targets

RATE = 16_000


def tone(hertz: float, seconds: float, level: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def make_pool() -> UtterancePool:
    """Eight speakers that hum at pitches of their own, in utterances of 0.5 to 6 s."""
    return UtterancePool.from_arrays(
        {f"s{k}": [tone(150 + 60 * k, length) for length in (0.5, 1.2, 6.0)] for k in range(8)}
    )


POOL = make_pool()

# --- The data set


def make_dataset(**changes) -> MixingDataset:
    options = {"config": MixingConfig(session_seconds=3.0, conversations_per_epoch=6), "seed": 5, "pool": POOL}
    return MixingDataset(**{**options, **changes})


def same(first, second) -> bool:
    return torch.equal(first.audio, second.audio) and torch.equal(first.targets, second.targets)


def test_a_conversation_is_a_function_of_its_numbers():
    data = make_dataset()
    reference = data.conversation(1, 0, 2)
    assert same(reference, make_dataset(pool=make_pool()).conversation(1, 0, 2))
    others = [data.conversation(*numbers) for numbers in [(2, 0, 2), (1, 1, 2), (1, 0, 3)]]
    others += [make_dataset(seed=6).conversation(1, 0, 2), make_dataset(rank=1, world_size=2).conversation(1, 0, 2)]
    assert not any(same(reference, other) for other in others)


def test_workers_give_the_same_conversations_as_asking_for_them():
    data = make_dataset()
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        data.set_epoch(epoch)  # must reach workers that are already running
        got = {item.recording: item for item in loader}
        assert len(got) == 6
        for worker in range(2):
            for number in range(3):
                assert same(got[f"mixed-{epoch}-0-{worker}-{number}"], data.conversation(epoch, worker, number))


def test_ranks_share_the_epoch_evenly():
    config = MixingConfig(session_seconds=3.0, conversations_per_epoch=7)
    lengths = [len(list(make_dataset(config=config, rank=rank, world_size=2))) for rank in range(2)]
    assert lengths == [3, 3] == [len(make_dataset(config=config, rank=rank, world_size=2)) for rank in range(2)]


def test_items_have_targets_in_order_of_arrival_and_collate():
    items = list(make_dataset(num_slots=5))
    batch = collate(items)
    assert batch.audio.shape == (6, 3 * RATE)
    assert batch.targets.shape == (6, 38, 5)
    for item in items:
        first = torch.where(item.targets.any(0), item.targets.argmax(0), 99)
        assert (first.diff() >= 0).all()


def test_more_speakers_than_slots_are_refused_at_once():
    with pytest.raises(ValueError, match="allows 4 speakers, but the model has 3 slots"):
        make_dataset(num_slots=3)


def test_written_conversations_read_back_as_they_were_mixed(tmp_path):
    config = MixingConfig(session_seconds=12.0)
    manifest = write_conversations(POOL, config, tmp_path, count=2, seed=9)
    entries = read_manifest(manifest)
    assert len(entries) == 2
    for number, entry in enumerate(entries):
        audio, segments = simulate_conversation(POOL, config, np.random.default_rng([9, number]))
        written, rate = soundfile.read(entry.audio_filepath, dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(written, audio, atol=1e-4)
        (read,) = read_rttm(entry.rttm_filepath).values()
        options = {"num_samples": len(audio), "num_slots": 4}
        assert (frame_targets(read, **options) != frame_targets(segments, **options)).mean() < 0.01  # RTTM has 1 ms
        assert entry.num_speakers == len({segment.speaker for segment in segments})


# --- The config


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"overlap_free_share": 1.5}, r"`overlap_free_share` must be in \[0, 1\], but is 1.5"),
        ({"speed_range": [1.2, 0.8]}, "`speed_range` must be a pair"),
        ({"turn_seconds": [0.0, 3.0]}, "`turn_seconds` must be positive"),
        ({"session_seconds": 0.0}, "`session_seconds` must be more than 0"),
        ({"speaker_count_weights": [0.0]}, "`speaker_count_weights`"),
        ({"sparse_silence": [0.5, 1.0]}, "`sparse_silence`"),
        ({"output_dbfs": [-20.0, 0.0]}, "`output_dbfs`"),
        ({"same_voice_ratio": 1.0}, "`same_voice_ratio`"),
        ({"events_per_minute": -1.0}, "`events_per_minute`"),
        ({"sesion_seconds": 3.0}, "Did you mean `session_seconds`"),
    ],
)
def test_a_wrong_setting_names_itself(changes, match):
    with pytest.raises(ConfigError, match=match):
        from_cfg(MixingConfig, changes)
