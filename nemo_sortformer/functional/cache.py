# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The memory of a stream: a queue of the latest frames, and a cache of the frames that tell its speakers apart.

State in, state out, no loop over the batch or the speakers. Each stream of a batch has its own lengths, so streams of
different age can stand side by side, and each gets the numbers that it gets alone. With `static` sizes no value is
read back from the device and every shape is known beforehand; without, tensors are no longer than they have to be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_sortformer.functional.frames import lengths_to_mask


class CacheRule(NamedTuple):
    """How frames are kept; NeMo's names and, where they have one, NeMo's defaults. Lengths are in output frames."""

    spkcache_len: int = 188
    """Frames of the cache. 0: no cache, what leaves the queue is forgotten."""
    fifo_len: int = 0
    """Frames of the queue."""
    spkcache_update_period: int = 188
    """At least so many frames move from the queue into the cache, when the queue is full."""
    spkcache_sil_frames_per_spk: int = 3
    """Frames of mean silence after the frames of each speaker in the cache."""
    pred_score_threshold: float = 0.25
    """Probabilities below this count as this where a frame is scored."""
    scores_boost_latest: float = 0.05
    """Added to the scores of the frames that are new to the cache."""
    sil_threshold: float = 0.2
    """A frame is silence where the probabilities of all speakers sum to less than this."""
    strong_boost_rate: float = 0.75
    """This share of a speaker's fair part of the cache is kept for the speaker with much weight,"""
    weak_boost_rate: float = 1.5
    """this share with some,"""
    min_pos_scores_rate: float = 0.5
    """and where there are as many frames as this share in which nobody else speaks, others are not taken."""


class SpeakerCache(NamedTuple):
    """The memory of a batch of streams: a value, never changed in place.

    The embeddings have the model's dtype, so that they are stored as they were made; what is summed or compared over a
    long time has float32. Frames past a length are zero.
    """

    cache: Tensor
    """Embeddings of the speaker cache, shape (batch, spkcache_len, width)."""
    cache_probs: Tensor
    """Speech probabilities when those frames were taken in, shape (batch, spkcache_len, slots), float32."""
    cache_lengths: Tensor
    """Frames in the cache, shape (batch,), int64."""
    compressed: Tensor
    """Whether the cache has ever been full, shape (batch,), bool; before that `cache_probs` says nothing."""
    fifo: Tensor
    """Embeddings of the queue, shape (batch, fifo_len, width)."""
    fifo_lengths: Tensor
    """Frames in the queue, shape (batch,), int64."""
    silence_mean: Tensor
    """Mean embedding of silence, shape (batch, width), float32."""
    silence_count: Tensor
    """Frames of silence in that mean, shape (batch,), int64."""
    frames: Tensor
    """Frames that each stream has been given so far, shape (batch,), int64."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SpeakerCache:
        """The same memory on another device, its embeddings in another dtype."""
        moved = SpeakerCache(*(tensor.to(device=device) for tensor in self))
        return moved if dtype is None else moved._replace(cache=moved.cache.to(dtype), fifo=moved.fifo.to(dtype))


def empty_cache(
    batch_size: int,
    *,
    width: int,
    num_slots: int,
    rule: CacheRule,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SpeakerCache:
    """The memory of streams of which nothing has been heard.

    Args:
        batch_size: number of streams.
        width: of an embedding.
        num_slots: speakers that the model tells apart.
        rule: its lengths are the sizes of the tensors.
        device: where the tensors lie.
        dtype: of the embeddings.
    """
    zeros = torch.zeros(batch_size, dtype=torch.int64, device=device)
    return SpeakerCache(
        cache=torch.zeros(batch_size, rule.spkcache_len, width, device=device, dtype=dtype),
        cache_probs=torch.zeros(batch_size, rule.spkcache_len, num_slots, device=device),
        cache_lengths=zeros,
        compressed=torch.zeros(batch_size, dtype=torch.bool, device=device),
        fifo=torch.zeros(batch_size, rule.fifo_len, width, device=device, dtype=dtype),
        fifo_lengths=zeros.clone(),
        silence_mean=torch.zeros(batch_size, width, device=device),
        silence_count=zeros.clone(),
        frames=zeros.clone(),
    )


def join_caches(states: list[SpeakerCache]) -> SpeakerCache:
    """One batch out of several; all must have the same sizes."""
    return SpeakerCache(*(torch.cat(tensors) for tensors in zip(*states, strict=True)))


def split_cache(state: SpeakerCache) -> list[SpeakerCache]:
    """Each stream of a batch as a batch of one, with memory of its own."""
    return [SpeakerCache(*(tensor[i : i + 1].clone() for tensor in state)) for i in range(len(state.frames))]


def pack(parts: list[Tensor], lengths: list[Tensor], *, size: int) -> Tensor:
    """Put the valid frames of several tensors one after the other, for each stream by its own lengths.

    Args:
        parts: each of shape (batch, frames, width), the frames of each as it likes.
        lengths: valid frames of each part, each of shape (batch,).
        size: frames of the result; what does not fit is left out.

    Returns:
        Shape (batch, size, width), zero past the sum of the lengths.

    Example:
        >>> first, second = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [4.0]]])
        >>> pack([first, second], [torch.tensor([1]), torch.tensor([2])], size=4).flatten().tolist()
        [1.0, 3.0, 4.0, 0.0]
    """
    source = torch.cat(parts, dim=1)
    place = torch.arange(size, device=source.device)[None]
    index, end = place.expand(source.shape[0], -1), torch.zeros_like(lengths[0])
    for part, length in zip(parts, lengths, strict=True):
        end = end + length
        index = index + torch.where(place >= end[:, None], part.shape[1] - length[:, None], 0)
    return _gather(source, index, place < end[:, None])


def take(packed: Tensor, start: Tensor, lengths: Tensor, *, size: int) -> Tensor:
    """Cut a stretch out of each stream: frames `start` to `start + lengths`.

    Args:
        packed: shape (batch, frames, width).
        start: first frame of the stretch, shape (batch,).
        lengths: frames of the stretch, shape (batch,).
        size: frames of the result.

    Returns:
        Shape (batch, size, width), zero past `lengths`.
    """
    place = torch.arange(size, device=packed.device)[None]
    return _gather(packed, place + start[:, None], place < lengths[:, None])


def _gather(source: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    if source.shape[1] == 0:
        return source.new_zeros(*index.shape, source.shape[2])
    index = torch.where(valid, index, 0).clamp(max=source.shape[1] - 1)
    found = source.gather(1, index[:, :, None].expand(-1, -1, source.shape[2]))
    return torch.where(valid[:, :, None], found, 0)


def update_cache(
    state: SpeakerCache,
    chunk: Tensor,
    lengths: Tensor,
    chunk_probs: Tensor,
    old_probs: Tensor,
    rule: CacheRule,
    *,
    static: bool = True,
) -> SpeakerCache:
    """Take in the frames of one chunk.

    They join the queue. Where that grows past its length, its oldest frames move on into the cache; where the cache
    grows past its length, the frames that matter least are dropped. A stream whose length is 0 stays as it is.

    Args:
        state: the memory before the chunk.
        chunk: embeddings of the new frames, without context, shape (batch, frames, width).
        lengths: valid frames of the chunk, shape (batch,).
        chunk_probs: their speech probabilities, shape (batch, frames, slots), float32.
        old_probs: the probabilities that the same run gave to the frames of cache and queue, those of the cache first
            and packed without a gap, shape (batch, spkcache_len + fifo_len or fewer, slots), float32.
        rule: what to keep.
        static: sizes by `rule` alone; else by the longest stream, which reads lengths back from the device.

    Returns:
        The memory after the chunk.

    Source: NeMo's ``SortformerModules.streaming_update``, whose numbers these are on every stream by itself. NeMo's
    ``streaming_update_async`` gives the same once the mark of a cache that was never full is negative there, as its
    own test for it expects; and it takes the longest chunk of the batch where this takes each stream's own.
    """
    fifo_size, most_new = state.fifo.shape[1], chunk.shape[1]
    total = state.fifo_lengths + lengths
    both = [state.fifo_lengths, lengths]
    queue = pack([state.fifo, chunk], both, size=fifo_size + most_new)
    fifo_probs = take(old_probs, state.cache_lengths, state.fifo_lengths, size=fifo_size)
    queue_probs = pack([fifo_probs, chunk_probs], both, size=fifo_size + most_new)

    leaving = torch.minimum((total - fifo_size).clamp(min=rule.spkcache_update_period), total)
    leaving = torch.where(total > fifo_size, leaving, 0)
    most_leaving = min(max(rule.spkcache_update_period, most_new), fifo_size + most_new)
    start = torch.zeros_like(leaving)
    gone = take(queue, start, leaving, size=most_leaving)
    gone_probs = take(queue_probs, start, leaving, size=most_leaving)
    mean, count = _mean_silence(state, gone, gone_probs, leaving, rule)
    state = state._replace(
        fifo=take(queue, leaving, total - leaving, size=fifo_size),
        fifo_lengths=total - leaving,
        silence_mean=mean,
        silence_count=count,
        frames=state.frames + lengths,
    )
    if rule.spkcache_len == 0 or (not static and not leaving.any()):
        return state
    size = rule.spkcache_len + most_leaving if static else int((state.cache_lengths + leaving).max())
    return _grow_cache(state, gone, gone_probs, leaving, old_probs, rule, size=size)


def _mean_silence(
    state: SpeakerCache, embeddings: Tensor, probs: Tensor, lengths: Tensor, rule: CacheRule
) -> tuple[Tensor, Tensor]:
    """Mean embedding of silence with these frames in it, and how many frames it is the mean of."""
    silent = (probs.sum(dim=2) < rule.sil_threshold) & lengths_to_mask(lengths, probs.shape[1])
    count = state.silence_count + silent.sum(dim=1)
    new_sum = torch.where(silent[:, :, None], embeddings, 0).sum(dim=1, dtype=torch.float32)
    total = state.silence_mean * state.silence_count[:, None] + new_sum
    return total / count[:, None].clamp(min=1), count


def _grow_cache(
    state: SpeakerCache,
    gone: Tensor,
    gone_probs: Tensor,
    leaving: Tensor,
    old_probs: Tensor,
    rule: CacheRule,
    *,
    size: int,
) -> SpeakerCache:
    """Append what leaves the queue to the cache, `size` frames at most, and compress it where it is too long then."""
    limit = rule.spkcache_len
    # A cache that was never compressed holds a stretch of time, which is judged as it is heard now.
    now = take(old_probs, torch.zeros_like(leaving), state.cache_lengths, size=limit)
    kept_probs = torch.where(state.compressed[:, None, None], state.cache_probs, now)
    both = [state.cache_lengths, leaving]
    grown = pack([state.cache, gone], both, size=max(size, limit))
    grown_probs = pack([kept_probs, gone_probs], both, size=max(size, limit))
    total = state.cache_lengths + leaving
    full, compressed = total > limit, state.compressed | (total > limit)
    cache, cache_probs = grown[:, :limit], grown_probs[:, :limit]
    if size > limit:
        best, best_probs = compress(grown, grown_probs, state.silence_mean, rule)
        cache = torch.where(full[:, None, None], best, cache)
        cache_probs = torch.where(full[:, None, None], best_probs, cache_probs)
    return state._replace(
        cache=cache,
        cache_probs=torch.where(compressed[:, None, None], cache_probs, 0),
        cache_lengths=total.clamp(max=limit),
        compressed=compressed,
    )


def compress(embeddings: Tensor, probs: Tensor, silence: Tensor, rule: CacheRule) -> tuple[Tensor, Tensor]:
    """Choose the frames that say most about the speakers, ordered by speaker and then by time.

    Every speaker is sure of some frames; after each speaker's come some of mean silence, which also fill up where
    there is not enough speech.

    Args:
        embeddings: shape (batch, frames, width); padded frames stand at the end.
        probs: speech probabilities, shape (batch, frames, slots), float32; zero in padded frames.
        silence: mean embedding of silence, shape (batch, width).
        rule: the first `spkcache_len` frames are the old ones.

    Returns:
        Embeddings (batch, spkcache_len, width) and their probabilities (batch, spkcache_len, slots); the same frame
        may stand there for two speakers.

    Source: ``_compress_spkcache`` of NeMo without its randomness for training. Which of two equal scores wins is left
    to ``torch.topk``, as there: a frame that stands in the cache for two speakers meets itself again.
    """
    num_frames, num_slots = probs.shape[1:]
    scores_BST = frame_scores(probs, rule).transpose(1, 2)
    num_silent = rule.spkcache_sil_frames_per_spk
    if num_silent:
        endless = scores_BST.new_full((*scores_BST.shape[:2], num_silent), math.inf)
        scores_BST = torch.cat([scores_BST, endless], dim=2)
    row = num_frames + num_silent
    scores = scores_BST.flatten(1)
    value, place = scores.topk(min(rule.spkcache_len, scores.shape[1]), dim=1, sorted=False)
    missing = rule.spkcache_len - place.shape[1]
    if missing > 0:  # fewer frames than the cache has room for
        value = F.pad(value, (0, missing), value=-math.inf)
        place = F.pad(place, (0, missing))
    place = torch.where(value == -math.inf, num_slots * row, place).sort(dim=1).values
    frame = place % row
    is_silence = (place == num_slots * row) | (frame >= num_frames)
    frame = torch.where(is_silence, 0, frame)[:, :, None]
    chosen = embeddings.gather(1, frame.expand(-1, -1, embeddings.shape[2]))
    chosen = torch.where(is_silence[:, :, None], silence[:, None].to(chosen.dtype), chosen)
    chosen_probs = probs.gather(1, frame.expand(-1, -1, num_slots))
    return chosen, torch.where(is_silence[:, :, None], 0, chosen_probs)


def frame_scores(probs: Tensor, rule: CacheRule) -> Tensor:
    """How much each frame says about each speaker; most where this one speaks surely, and nobody else.

    Args:
        probs: speech probabilities, shape (batch, frames, slots), float32.
        rule: weights of the parts.

    Returns:
        Shape (batch, frames, slots); minus infinity where the frame must not be chosen for the speaker.
    """
    per_speaker = rule.spkcache_len // probs.shape[2] - rule.spkcache_sil_frames_per_spk
    log_on = probs.clamp(min=rule.pred_score_threshold).log()
    log_off = (1 - probs).clamp(min=rule.pred_score_threshold).log()
    scores = log_on - log_off + log_off.sum(dim=2, keepdim=True) - math.log(0.5)
    speech = probs > 0.5
    scores = torch.where(speech, scores, -math.inf)
    alone = scores > 0
    enough = alone.sum(dim=1, keepdim=True) >= math.floor(per_speaker * rule.min_pos_scores_rate)
    scores = torch.where(speech & ~alone & enough, -math.inf, scores)
    if rule.scores_boost_latest > 0:
        is_new = torch.arange(probs.shape[1], device=probs.device)[:, None] >= rule.spkcache_len
        scores = scores + rule.scores_boost_latest * is_new
    scores = _boost_best(scores, math.floor(per_speaker * rule.strong_boost_rate), 2 * math.log(2))
    return _boost_best(scores, math.floor(per_speaker * rule.weak_boost_rate), math.log(2))


def _boost_best(scores: Tensor, count: int, bonus: float) -> Tensor:
    """Add `bonus` to the `count` best frames of each speaker, or to all where there are not so many."""
    count = min(count, scores.shape[1])
    best = scores.topk(count, dim=1, sorted=False).indices
    return scores.scatter_add(1, best, torch.full_like(best, bonus, dtype=scores.dtype))
