# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The steps of streams, as functions of their states: audio in, then whatever can be answered by it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.streaming import StreamingConfig
from nemo_sortformer.data.resample import resample_piece, start_resampling
from nemo_sortformer.functional.cache import SpeakerCache, join_caches, split_cache
from nemo_sortformer.functional.live_segments import no_segments
from nemo_sortformer.inference.engine import evaluating
from nemo_sortformer.inference.model_identity import ModelIdentity
from nemo_sortformer.inference.online_clustering import Heard, no_speakers
from nemo_sortformer.inference.stream_answers import StreamUpdate, answer
from nemo_sortformer.inference.stream_audio import piece_samples
from nemo_sortformer.inference.stream_features import Plan, chunk_features, history_hops, plan_step
from nemo_sortformer.inference.stream_state import StreamError, StreamState
from nemo_sortformer.models.diarizer.streaming import StreamOutput, init_stream, stream_step
from nemo_sortformer.models.diarizer.streaming_mel import StreamingMel, streaming_mel

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


def new_state(
    model: SortformerDiarizer,
    config: StreamingConfig,
    inference: InferenceConfig,
    identity: ModelIdentity,
    *,
    sample_rate: int,
) -> StreamState:
    """A stream of which nothing has been heard.

    With the assignment `clustering` the speaker cache is left out: the network hears the queue and the chunk, as it
    was trained to hear a stretch of time, and speakers are known by their voices.

    Raises:
        ConfigError: a setting is wrong, or the model's front end cannot be run piece by piece.
    """
    if not 100 <= sample_rate <= 1_000_000:
        raise ConfigError(f"`sample_rate` must be in Hz, from 100 to 1000000, but is {sample_rate}.")
    clusters = inference.assignment == "clustering"
    if clusters and model.affinity_head is None:
        raise ConfigError("`assignment` is `clustering`, but the model has no affinity embeddings. Set it to `heads`.")
    mel = streaming_mel(model)
    num_slots = (inference.clustering.max_speakers or model.num_slots) if clusters else model.num_slots
    history = history_hops(config, mel, model)
    return StreamState(
        model=identity,
        config=config,
        inference=inference,
        sample_rate=int(sample_rate),
        cache=init_stream(model, 1, replace(config, spkcache_len=0) if clusters else config),
        audio=np.zeros(history * model.hop_samples, dtype=np.float32),
        resampler=start_resampling(),
        segments=no_segments(num_slots),
        recent=np.zeros((0, num_slots), dtype=np.float32),
        unsettled=np.zeros((0, num_slots), dtype=np.float32),
        statistics=mel.empty_statistics(model.device) if mel.normalization else None,
        speakers=no_speakers(model.affinity_head.dim) if clusters else None,
    )


def add_audio(
    state: StreamState, piece: Any, model: SortformerDiarizer, *, name: Hashable = 0, sample_rate: int | None = None
) -> StreamState:
    """The stream with a piece of audio more; None ends it.

    Raises:
        AudioError: the piece is of no use.
        StreamError: the stream is finished, or the rate is another one.
    """
    if state.finished:
        raise StreamError(f"The stream `{name}` is finished. Begin a new one for what comes after it.")
    if sample_rate not in (None, state.sample_rate):
        raise StreamError(
            f"The stream `{name}` has {state.sample_rate} samples per second, but this piece has {sample_rate}. "
            "Resample it, or finish the stream and begin another."
        )
    ends = piece is None
    if ends:  # half a sample that is still open is lost: it never came
        samples, left_over = np.zeros(0, dtype=np.float32), b""
    else:
        samples, left_over = piece_samples(piece, left_over=state.left_over)
    heard, resampler = resample_piece(
        state.resampler, samples, rate_in=state.sample_rate, rate_out=model.config.sample_rate, last=ends
    )
    if state.sample_rate == model.config.sample_rate:
        resampler = resampler._replace(num_in=resampler.num_in + len(samples))
    return replace(
        state,
        audio=np.concatenate([state.audio, heard]),
        resampler=resampler,
        num_samples=state.num_samples + len(heard),
        left_over=left_over,
        finished=ends,
    )


def run_steps(
    model: SortformerDiarizer, states: list[StreamState], *, max_batch: int = 64
) -> list[tuple[StreamState, list[StreamUpdate]]]:
    """Run all steps for which the streams have enough audio, those of different streams together.

    Returns:
        Each stream's new state and its updates, in the order given. Nothing is changed in place: where this raises,
        the states given are still good.
    """
    mel = streaming_mel(model)
    states, updates = list(states), [[] for _ in states]
    while plans := {i: plan for i, state in enumerate(states) if (plan := plan_step(state, mel, model)) is not None}:
        ready = list(plans)
        for begin in range(0, len(ready), max_batch):
            group = ready[begin : begin + max_batch]
            with evaluating(model), torch.inference_mode():
                results = _step(model, mel, [states[i] for i in group], [plans[i] for i in group])
            for i, (state, update) in zip(group, results, strict=True):
                states[i] = state
                updates[i].append(update)
    for i, (state, found) in enumerate(zip(states, updates, strict=True)):
        if state.finished and not (found and found[-1].is_last):
            none = np.zeros((0, state.recent.shape[1]), dtype=np.float32)
            states[i], update = answer(state, none, None, model, is_last=True)
            found.append(update)
    return list(zip(states, updates, strict=True))


def _step(
    model: SortformerDiarizer, mel: StreamingMel, states: list[StreamState], plans: list[Plan]
) -> list[tuple[StreamState, StreamUpdate]]:
    """Run one step of each stream as one batch."""
    config, hop, factor = states[0].config, mel.hop_samples, model.subsampling
    features, num_hops, states = chunk_features(model, mel, states, plans)
    cache = join_caches([state.cache.to(model.device, model.dtype) for state in states])
    rule = replace(config, spkcache_len=0) if states[0].speakers is not None else config
    output, cache = stream_step(model, features, num_hops, cache, rule)
    probs = output.probs.cpu().numpy()
    if not np.isfinite(probs).all():
        raise StreamError("The model answers with NaN: its weights are not finite, or the audio is far too loud.")
    windows = _windows(output, cache, plans, factor) if states[0].speakers is not None else [None] * len(states)
    results = []
    for state, plan, memory, window, row in zip(states, plans, split_cache(cache), windows, probs, strict=True):
        state = replace(state, cache=memory, audio=state.audio[plan.num_frames * factor * hop :])
        after = replace(state, num_frames=state.num_frames + plan.num_frames)
        is_last = state.finished and plan_step(after, mel, model) is None
        results.append(answer(state, row[: plan.num_frames], window, model, is_last=is_last))
    return results


def _windows(output: StreamOutput, cache: SpeakerCache, plans: list[Plan], factor: int) -> list[Heard | None]:
    """For each stream what it takes to know its speakers by their voices."""
    lengths, kept = output.window_lengths.tolist(), cache.fifo_lengths.tolist()
    values = [None if v is None else v.cpu().numpy() for v in output[-3:]]
    found: list[Heard | None] = []
    for i, plan in enumerate(plans):
        probs, embeddings, activity = (None if v is None else v[i, : lengths[i]] for v in values)
        if probs is None or embeddings is None:
            raise StreamError("The model has no affinity embeddings.")
        ahead = -(-(plan.last_hop - plan.first_hop) // factor) - plan.left_frames - plan.num_frames
        found.append(Heard(probs, embeddings, activity, plan.num_frames, ahead, kept[i]))
    return found
