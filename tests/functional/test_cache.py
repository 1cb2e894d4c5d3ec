# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The memory of a stream: NeMo's numbers on the same tensors, each stream as if alone, nothing changed in place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_sortformer.functional.cache import (
    CacheRule,
    compress,
    empty_cache,
    frame_scores,
    join_caches,
    pack,
    split_cache,
    take,
    update_cache,
)

WIDTH = 6
# slots, cache, queue, period, chunk, left and right context: the presets scaled down, and odd ones
SETTINGS = {
    "30.4s": (4, 24, 5, 37, 42, 1, 5),
    "10s": (4, 24, 16, 16, 16, 1, 1),
    "1.04s": (4, 40, 24, 18, 6, 1, 7),
    "0.32s": (4, 40, 24, 18, 3, 1, 1),
    "no queue": (4, 40, 0, 20, 20, 1, 1),
    "chunk longer than the period": (3, 33, 5, 4, 10, 0, 2),
    "period longer than the queue": (4, 30, 12, 40, 8, 1, 0),
    "one slot": (1, 10, 10, 9, 5, 1, 1),
    "cache as small as NeMo allows": (2, 8, 6, 6, 3, 1, 1),
}


def rule_of(sizes):
    _, cache, queue, period, *_ = sizes
    return CacheRule(spkcache_len=cache, fifo_len=queue, spkcache_update_period=period)


def speech_like(shape, generator):
    """Probabilities that go up and down slowly, with silence, overlap and sure speech."""
    walk = torch.randn(shape, generator=generator).cumsum(dim=1) * 0.8
    probs = torch.sigmoid(walk + 2 * torch.randn(shape[0], 1, shape[2], generator=generator) - 1)
    return 0.99 * probs + 0.01 * torch.rand(shape, generator=generator)  # no two frames of equal score


def steps_of(sizes, batch, count, seed=0, dtype=torch.float32):
    """Yield the chunk with its context, and the probabilities of all frames that stand in the memory and the chunk."""
    slots, cache, queue, _, chunk, left, right = sizes
    generator = torch.Generator().manual_seed(seed)
    for step in range(count):
        frames = (left if step else 0) + chunk + right
        probs = speech_like((batch, cache + queue + frames, slots), generator)
        yield torch.randn(batch, frames, WIDTH, generator=generator).to(dtype), probs, left if step else 0


def run_ours(sizes, batch, count, *, static, dtype=torch.float32, seed=0):
    """All memories after each step; `old` is what the probabilities say of the frames in it."""
    slots, _, _, _, chunk, _, _ = sizes
    rule = rule_of(sizes)
    state = empty_cache(batch, width=WIDTH, num_slots=slots, rule=rule, dtype=dtype)
    lengths = torch.full((batch,), chunk)
    for frames, probs, left in steps_of(sizes, batch, count, seed, dtype):
        kept = int((state.cache_lengths + state.fifo_lengths)[0])
        new = probs[:, kept + left : kept + left + chunk]
        state = update_cache(state, frames[:, left : left + chunk], lengths, new, probs[:, :kept], rule, static=static)
        yield state


def run_nemo(sizes, batch, count, *, asynchronous=False):
    """NeMo's states after each step, as (cache, its probabilities, queue, mean silence, frames of silence)."""
    from nemo.collections.asr.modules.sortformer_modules import SortformerModules

    slots, cache, queue, period, chunk, left_context, right = sizes
    modules = SortformerModules(
        num_spks=slots,
        fc_d_model=WIDTH,
        tf_d_model=WIDTH,
        spkcache_len=cache,
        fifo_len=queue,
        chunk_len=chunk,
        spkcache_update_period=period,
        chunk_left_context=left_context,
        chunk_right_context=right,
    ).eval()
    state = modules.init_streaming_state(batch_size=batch, async_streaming=asynchronous)
    for frames, probs, left in steps_of(sizes, batch, count):
        if asynchronous:
            kept = int((state.spkcache_lengths + state.fifo_lengths)[0])
        else:
            kept = state.spkcache.shape[1] + state.fifo.shape[1]
        probs = probs[:, : kept + frames.shape[1]]
        if asynchronous:
            lengths = torch.full((batch,), frames.shape[1])
            state, _ = modules.streaming_update_async(state, frames, lengths, probs, lc=left, rc=right)
        else:
            state, _ = modules.streaming_update(state, frames, probs, lc=left, rc=right)
        yield state


@pytest.mark.parametrize("sizes", SETTINGS.values(), ids=SETTINGS)
def test_numbers_of_nemos_synchronous_update(sizes):
    compressions = 0
    ours = run_ours(sizes, 3, 60, static=False)
    for mine, theirs in zip(ours, run_nemo(sizes, 3, 60), strict=True):
        cached, queued = theirs.spkcache.shape[1], theirs.fifo.shape[1]
        assert mine.cache_lengths.tolist() == [cached] * 3
        assert mine.fifo_lengths.tolist() == [queued] * 3
        assert_close(mine.cache[:, :cached], theirs.spkcache, rtol=0, atol=1e-6)
        assert_close(mine.fifo[:, :queued], theirs.fifo, rtol=0, atol=1e-6)
        assert_close(mine.silence_mean, theirs.mean_sil_emb, rtol=1e-5, atol=1e-6)
        assert torch.equal(mine.silence_count, theirs.n_sil_frames)
        assert bool(mine.compressed.all()) == (theirs.spkcache_preds is not None)
        if theirs.spkcache_preds is not None:
            compressions += 1
            assert_close(mine.cache_probs, theirs.spkcache_preds, rtol=0, atol=1e-6)
    assert compressions > 5


@pytest.mark.parametrize("name", ["1.04s", "no queue"])
def test_nemos_asynchronous_update_is_the_same_once_its_mark_is_negative(name, monkeypatch):
    sizes = SETTINGS[name]
    plain = [state.spkcache.clone() for state in run_nemo(sizes, 1, 30, asynchronous=True)]
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, **k: full(size, -1.0 if value == 0.0 else value, **k))
    fixed = [state.spkcache.clone() for state in run_nemo(sizes, 1, 30, asynchronous=True)]
    monkeypatch.undo()
    ours = list(run_ours(sizes, 1, 30, static=False))
    for mine, theirs in zip(ours, fixed, strict=True):
        assert_close(mine.cache, theirs, rtol=0, atol=1e-6)
    assert any(not torch.allclose(mine.cache, theirs) for mine, theirs in zip(ours, plain, strict=True))


@pytest.mark.parametrize("sizes", SETTINGS.values(), ids=SETTINGS)
def test_static_sizes_keep_the_same_frames(sizes):
    """Among frames of equal score, e.g. one that the cache holds twice, another one may be taken: compare as sets."""
    for tight, loose in zip(run_ours(sizes, 2, 40, static=False), run_ours(sizes, 2, 40, static=True), strict=True):
        assert torch.equal(tight.cache_lengths, loose.cache_lengths)
        assert_close(tight.fifo, loose.fifo)
        assert_close(tight.cache.sum(dim=1), loose.cache.sum(dim=1), rtol=0, atol=1e-4)
        assert_close(tight.silence_mean, loose.silence_mean)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["1.04s", "0.32s", "10s", "chunk longer than the period"]))
def test_streams_of_different_age_are_each_as_if_alone(seed, name):
    sizes = SETTINGS[name]
    slots, _, _, _, chunk, _, _ = sizes
    rule, generator = rule_of(sizes), torch.Generator().manual_seed(seed)
    alone = [empty_cache(1, width=WIDTH, num_slots=slots, rule=rule) for _ in range(3)]
    together = join_caches(alone)
    for _ in range(25):
        lengths = torch.where(torch.rand(3, generator=generator) < 0.6, chunk, 0)
        frames = torch.randn(3, chunk, WIDTH, generator=generator)
        new = speech_like((3, chunk, slots), generator) * (torch.arange(chunk)[:, None] < lengths[:, None, None])
        old = speech_like((3, rule.spkcache_len + rule.fifo_len, slots), generator)
        together = update_cache(together, frames, lengths, new, old, rule, static=False)
        alone = [
            update_cache(state, frames[[i]], lengths[[i]], new[[i]], old[[i]], rule, static=False)
            for i, state in enumerate(alone)
        ]
        for got, expected in zip(together, join_caches(alone), strict=True):
            assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_stream_of_length_0_stays_as_it_is_and_nothing_is_changed_in_place():
    sizes = SETTINGS["1.04s"]
    rule = rule_of(sizes)
    *_, state = run_ours(sizes, 2, 20, static=False)
    before = [tensor.clone() for tensor in state]
    frames, probs = torch.randn(2, 6, WIDTH), torch.rand(2, 6, 4)
    after = update_cache(state, frames, torch.tensor([0, 6]), probs, torch.rand(2, 64, 4), rule)
    for tensor, copy, new in zip(state, before, after, strict=True):
        assert torch.equal(tensor, copy)
        assert torch.equal(new[0], copy[0])
    assert int(after.frames[1]) == int(state.frames[1]) + 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_in_half_precision_are_kept_as_they_are(dtype):
    sizes = SETTINGS["1.04s"]
    for half, full in zip(
        run_ours(sizes, 2, 40, static=False, dtype=dtype), run_ours(sizes, 2, 40, static=False), strict=True
    ):
        assert half.cache.dtype == half.fifo.dtype == dtype
        assert half.silence_mean.dtype == half.cache_probs.dtype == torch.float32
        assert_close(half.cache.float(), full.cache.to(dtype).float(), rtol=1e-2, atol=1e-2)
    moved = half.to("cpu", torch.float32)
    assert moved.cache.dtype == torch.float32
    assert half.cache.dtype == dtype


def test_no_cache_forgets_what_leaves_the_queue():
    rule = CacheRule(spkcache_len=0, fifo_len=4, spkcache_update_period=3)
    state = empty_cache(1, width=1, num_slots=2, rule=rule)
    lengths = []
    for step in range(6):
        frames = torch.arange(2.0).view(1, 2, 1) + 2 * step
        old = torch.zeros(1, int(state.fifo_lengths), 2)
        state = update_cache(state, frames, torch.tensor([2]), torch.zeros(1, 2, 2), old, rule)
        lengths.append(int(state.fifo_lengths))
        newest = list(range(2 * step + 2 - lengths[-1], 2 * step + 2))
        assert state.fifo[0, : lengths[-1], 0].tolist() == newest
    assert lengths == [2, 4, 3, 2, 4, 3]
    assert state.cache.shape == (1, 0, 1)


def test_the_cache_is_ordered_by_speaker_with_silence_after_each():
    rule = CacheRule(spkcache_len=8, spkcache_sil_frames_per_spk=1)
    probs = torch.full((1, 20, 2), 0.01)
    probs[0, 0:20:3, 1], probs[0, 1:20:3, 0] = 0.99, 0.98  # the second speaker is heard first, the rest is silence
    embeddings = torch.arange(20.0).view(1, 20, 1)
    kept, kept_probs = compress(embeddings, probs, torch.tensor([[-1.0]]), rule)
    spoken = kept[0, :, 0].tolist()
    first, second = spoken[:2], spoken[3:7]  # two frames are sure for each speaker, the rest goes to the surer one
    assert spoken[2] == spoken[7] == -1
    assert first == sorted(first)
    assert second == sorted(second)
    assert all(frame % 3 == 1 for frame in first)
    assert all(frame % 3 == 0 for frame in second)
    assert kept_probs[0, :2, 0].min() > 0.9
    assert kept_probs[0, 3:7, 1].min() > 0.9
    assert kept_probs[0, [2, 7]].abs().max() == 0


def test_less_speech_than_room_is_filled_up_with_silence():
    rule = CacheRule(spkcache_len=8, spkcache_sil_frames_per_spk=1)
    probs = torch.zeros(1, 5, 2)
    probs[0, 2, 0] = 0.9
    kept, _ = compress(torch.arange(5.0).view(1, 5, 1), probs, torch.tensor([[-1.0]]), rule)
    assert sorted(set(kept.flatten().tolist())) == [-1.0, 2.0]
    assert kept.shape == (1, 8, 1)


def test_scores_say_no_to_silence_and_prefer_one_voice_to_two():
    rule = CacheRule(spkcache_len=16, scores_boost_latest=0.0)
    scores = frame_scores(torch.tensor([[[0.4, 0.1], [0.9, 0.1], [0.9, 0.8]]]), rule)
    assert scores[0, 0].tolist() == [float("-inf")] * 2
    assert scores[0, 1, 0] > scores[0, 2, 0]


def test_pack_and_take_leave_no_gap():
    first, second = torch.arange(1.0, 7).view(2, 3, 1), torch.arange(10.0, 14).view(2, 2, 1)
    lengths = [torch.tensor([3, 1]), torch.tensor([1, 2])]
    packed = pack([first, second], lengths, size=5)
    assert packed[:, :, 0].tolist() == [[1, 2, 3, 10, 0], [4, 12, 13, 0, 0]]
    assert pack([first, second], lengths, size=2)[:, :, 0].tolist() == [[1, 2], [4, 12]]
    cut = take(packed, torch.tensor([2, 0]), torch.tensor([2, 3]), size=4)
    assert cut[:, :, 0].tolist() == [[3, 10, 0, 0], [4, 12, 13, 0]]
    assert take(torch.zeros(1, 0, 3), torch.tensor([0]), torch.tensor([0]), size=2).shape == (1, 2, 3)


def test_batches_are_split_into_what_they_were_joined_from():
    *_, state = run_ours(SETTINGS["0.32s"], 3, 10, static=True)
    for got, expected in zip(join_caches(split_cache(state)), state, strict=True):
        assert torch.equal(got, expected)


def test_no_step_reads_a_value_back_with_static_sizes():
    """On the meta device there are no values: whatever asks for one fails."""
    sizes = SETTINGS["1.04s"]
    rule = rule_of(sizes)
    state = empty_cache(2, width=WIDTH, num_slots=4, rule=rule, device="meta")
    frames, probs = torch.zeros(2, 6, WIDTH, device="meta"), torch.zeros(2, 6, 4, device="meta")
    lengths = torch.full((2,), 6, device="meta")
    state = update_cache(state, frames, lengths, probs, torch.zeros(2, 64, 4, device="meta"), rule, static=True)
    assert state.cache.shape == (2, 40, WIDTH)


class Counted(TorchDispatchMode):
    """Counts the operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("static", [True, False])
def test_the_update_is_as_many_operations_for_any_number_of_streams_and_speakers(static):
    counts = []
    for batch, slots in [(1, 1), (1, 4), (9, 4), (16, 7)]:
        sizes = (slots, 60, 24, 18, 6, 1, 7)
        rule, steps = rule_of(sizes), steps_of(sizes, batch, 15)
        state, lengths = empty_cache(batch, width=WIDTH, num_slots=slots, rule=rule), torch.full((batch,), 6)
        with Counted() as seen:
            for chunk, probs, left in steps:
                new = chunk[:, left : left + 6]
                state = update_cache(state, new, lengths, probs[:, :6], probs[:, :84], rule, static=static)
        assert bool(state.compressed.all()) is True
        made = Counted()
        with made:
            list(steps_of(sizes, batch, 15))
        counts.append(seen.count - made.count)
    assert len(set(counts)) == 1
