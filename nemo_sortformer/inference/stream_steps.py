# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The steps of streams, as functions of their states: audio in, then whatever can be answered by it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.streaming import StreamingConfig
from nemo_sortformer.data.resample import resample_piece, start_resampling
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.cache import SpeakerCache, join_caches, split_cache
from nemo_sortformer.functional.live_segments import advance_segments, no_segments
from nemo_sortformer.inference.engine import evaluating
from nemo_sortformer.inference.model_identity import ModelIdentity
from nemo_sortformer.inference.online_clustering import Heard, assign_speakers, no_speakers
from nemo_sortformer.inference.stream_audio import piece_samples
from nemo_sortformer.inference.stream_state import StreamError, StreamState
from nemo_sortformer.models.diarizer.level import EPSILON
from nemo_sortformer.models.diarizer.streaming import StreamOutput, init_stream, stream_step
from nemo_sortformer.models.diarizer.streaming_mel import MelStatistics, StreamingMel, streaming_mel

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


@dataclass(frozen=True, kw_only=True)
class StreamUpdate:
    """What one step of a stream brings."""

    first_frame: int
    """Number of the first new frame."""
    probs: np.ndarray
    """Speech probabilities of the new frames, shape (frames, speakers), float32; column k is `speaker_k`."""
    frame_seconds: float
    """Seconds from one frame to the next."""
    finished: tuple[Segment, ...]
    """Segments that nothing can change any more and that were in no `finished` before, by start."""
    changed: tuple[Segment, ...]
    """All segments that are there but may still grow, join others or vanish, as they are now, by start."""
    seconds: float
    """Time of the stream up to which this says who speaks."""
    is_last: bool = False
    """The stream is over; everything is finished."""

    @property
    def start(self) -> float:
        """Time of the first new frame, in seconds."""
        return self.first_frame * self.frame_seconds

    @property
    def speaking(self) -> tuple[str, ...]:
        """Who speaks at `seconds`."""
        return tuple(segment.speaker for segment in self.changed if segment.end >= self.seconds - self.frame_seconds)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists, for JSON; segments are [start, end, speaker], probabilities have 4 digits."""
        return {
            "start": round(self.start, 3),
            "seconds": round(self.seconds, 3),
            "frame_seconds": self.frame_seconds,
            "probs": [[round(float(value), 4) for value in row] for row in self.probs],
            "finished": [list(segment) for segment in self.finished],
            "changed": [list(segment) for segment in self.changed],
            "speaking": list(self.speaking),
            "is_last": self.is_last,
        }


class _Plan(NamedTuple):
    """The hops of one step of a stream."""

    left_frames: int
    """Context before the chunk."""
    num_frames: int
    """Of the chunk."""
    first_hop: int
    """Of the context before it."""
    last_hop: int
    """One past the context after it."""
    num_samples: int
    """Samples of the stream that the step may use: the same however the audio was cut."""


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
    history = _history_hops(config, mel, model)
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


def _history_hops(config: StreamingConfig, mel: StreamingMel, model: SortformerDiarizer) -> int:
    """Hops before a chunk from which its audio is kept; silence stands for those before the stream."""
    return config.chunk_left_context * model.subsampling + mel.margin_hops


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
    with evaluating(model), torch.inference_mode():
        while True:
            plans = {i: plan for i, state in enumerate(states) if (plan := _plan(state, mel, model)) is not None}
            if not plans:
                break
            ready = list(plans)
            for begin in range(0, len(ready), max_batch):
                group = ready[begin : begin + max_batch]
                for i, (state, update) in zip(
                    group, _step(model, mel, [states[i] for i in group], [plans[i] for i in group]), strict=True
                ):
                    states[i] = state
                    updates[i].append(update)
    for state, found in zip(states, updates, strict=True):
        if state.finished and not (found and found[-1].is_last):
            none = np.zeros((0, state.recent.shape[1]), dtype=np.float32)
            found.append(_answer(state, none, None, model)[1])
    return list(zip(states, updates, strict=True))


def _plan(state: StreamState, mel: StreamingMel, model: SortformerDiarizer) -> _Plan | None:
    """The next step of a stream, or None where there is not enough audio for it."""
    factor, hop = model.subsampling, mel.hop_samples
    first = state.num_frames * factor
    end = first + state.config.chunk_len * factor
    last = end + state.config.chunk_right_context * factor
    enough = (last - 1) * hop + mel.samples_ahead
    if state.num_samples < enough:
        if not state.finished:
            return None
        total = max(state.num_samples // hop, min(state.num_samples, 1))  # less than one hop still is a frame
        if first >= total:
            return None
        end, last = min(end, total), min(last, total)
    left = min(state.config.chunk_left_context, state.num_frames)
    return _Plan(left, -(-(end - first) // factor), first - left * factor, last, min(state.num_samples, enough))


def _step(
    model: SortformerDiarizer, mel: StreamingMel, states: list[StreamState], plans: list[_Plan]
) -> list[tuple[StreamState, StreamUpdate]]:
    """Run one step of each stream as one batch."""
    config, hop, factor = states[0].config, mel.hop_samples, model.subsampling
    history = _history_hops(config, mel, model)
    states, pieces, gains = _leveled(model, states, plans, history)
    num_hops = torch.tensor([plan.last_hop - plan.first_hop for plan in plans])
    skipped = torch.tensor([(config.chunk_left_context - plan.left_frames) * factor for plan in plans])
    shortest = ((skipped + num_hops + mel.margin_hops) * hop).tolist()
    lengths = [max(len(piece), least) for piece, least in zip(pieces, shortest, strict=True)]
    audio = np.zeros((len(pieces), max(lengths)), dtype=np.float32)
    for row, piece, gain in zip(audio, pieces, gains, strict=True):
        np.multiply(piece, gain, out=row[: len(piece)])
    device = model.device
    features, valid = mel(
        torch.from_numpy(audio).to(device),
        torch.tensor(lengths, device=device),
        num_hops.to(device),
        skipped.to(device),
        size=int(num_hops.max()),
    )
    if mel.normalization is not None:
        features, states = _normalized(features, valid, gains, states, plans, mel)
    cache = join_caches([state.cache.to(device, model.dtype) for state in states])
    rule = replace(config, spkcache_len=0) if states[0].speakers is not None else config
    output, cache = stream_step(model, features, num_hops.to(device), cache, rule)
    probs = output.probs.cpu().numpy()
    if not np.isfinite(probs).all():
        raise StreamError("The model answers with NaN: its weights are not finite, or the audio is far too loud.")
    windows = _windows(output, cache, plans, factor) if states[0].speakers is not None else [None] * len(states)
    results = []
    for state, plan, memory, window, row in zip(states, plans, split_cache(cache), windows, probs, strict=True):
        state = replace(state, cache=memory, audio=state.audio[plan.num_frames * factor * hop :])
        results.append(_answer(state, row[: plan.num_frames], window, model))
    return results


def _windows(output: StreamOutput, cache: SpeakerCache, plans: list[_Plan], factor: int) -> list[Heard | None]:
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


def _leveled(
    model: SortformerDiarizer, states: list[StreamState], plans: list[_Plan], history: int
) -> tuple[list[StreamState], list[np.ndarray], list[float]]:
    """The audio of each step, and the gain that brings the stream so far to the model's level."""
    hop, factor, kind = model.hop_samples, model.subsampling, model.config.level
    changed, pieces, gains = [], [], []
    for state, plan in zip(states, plans, strict=True):
        base = (state.num_frames * factor - history) * hop
        piece = state.audio[: plan.num_samples - base]
        pieces.append(piece)
        gain = 1.0
        if kind != "none":
            new = piece[max(state.level_samples - base, 0) :]
            if kind == "peak":
                level = size = max(state.level, float(new.max(initial=0.0)))
            else:
                level = state.level + float(np.square(new, dtype=np.float64).sum())
                size = (level / max(plan.num_samples, 1)) ** 0.5
            state = replace(state, level=level, level_samples=plan.num_samples)
            gain = 1 / (size + EPSILON)
        changed.append(state)
        gains.append(gain)
    return changed, pieces, gains


def _normalized(
    features: torch.Tensor,
    valid: torch.Tensor,
    gains: list[float],
    states: list[StreamState],
    plans: list[_Plan],
    mel: StreamingMel,
) -> tuple[torch.Tensor, list[StreamState]]:
    """Normalize each band by all hops of the stream so far, as if its gain had always been that of now."""
    device = features.device
    shift = mel.level_power * torch.tensor(gains, device=device, dtype=torch.float64).log().float()
    features = features - shift[:, None, None]
    place = torch.arange(features.shape[2], device=device)
    seen = torch.tensor([state.num_hops - plan.first_hop for state, plan in zip(states, plans, strict=True)])
    old = MelStatistics(*(torch.cat(parts).to(device) for parts in zip(*(s.statistics for s in states), strict=True)))
    new = old.add(features, valid & (place >= seen.to(device)[:, None]))
    features = torch.where(valid[:, None], new.normalize(features), 0)
    rows = [MelStatistics(*(tensor[i : i + 1].clone() for tensor in new)) for i in range(len(states))]
    return features, [
        replace(state, statistics=row, num_hops=plan.last_hop)
        for state, row, plan in zip(states, rows, plans, strict=True)
    ]


def _answer(
    state: StreamState, probs: np.ndarray, window: Heard | None, model: SortformerDiarizer
) -> tuple[StreamState, StreamUpdate]:
    """The stream after these new frames, and what they bring."""
    first, seconds_per_frame = state.num_frames, model.frame_seconds
    state = replace(state, num_frames=first + len(probs))
    duration = state.num_samples / model.config.sample_rate
    is_last = state.finished and _plan(state, streaming_mel(model), model) is None
    settled, unsettled = np.concatenate([state.unsettled, probs]), probs[:0]
    if state.speakers is not None and window is not None:
        settled, unsettled, speakers = assign_speakers(
            state.speakers,
            window,
            state.inference.clustering,
            most_speakers=state.recent.shape[1],
            last=is_last,
        )
        state = replace(state, speakers=speakers)
        probs = np.concatenate([settled, unsettled])[len(settled) + len(unsettled) - len(probs) :]
    options = {"frame_seconds": seconds_per_frame, **state.inference.segment_options()}
    rows = np.concatenate([state.recent, settled, unsettled])
    half = state.inference.median_frames // 2
    smooth = rows
    if half and len(rows):
        from scipy.ndimage import median_filter

        smooth = median_filter(rows, size=(2 * half + 1, 1), mode="nearest")
    waiting = smooth[len(rows) - (state.num_frames - state.segments.frames) :]
    ready = len(waiting) if is_last else max(len(waiting) - len(unsettled) - half, 0)
    segments, finished, changed = advance_segments(
        state.segments, waiting[:ready], end_seconds=duration if is_last else None, **options
    )
    if ready < len(waiting):
        _, soon, later = advance_segments(segments, waiting[ready:], **options)
        changed = np.concatenate([soon, later])
        changed = changed[np.lexsort((changed[:, 0], changed[:, 1]))]
    past = rows[: len(rows) - len(unsettled)]
    state = replace(state, segments=segments, recent=past[max(len(past) - 2 * half, 0) :], unsettled=unsettled)
    return state, StreamUpdate(
        first_frame=first,
        probs=probs,
        frame_seconds=seconds_per_frame,
        finished=_named(finished),
        changed=_named(changed),
        seconds=duration if is_last else state.num_frames * seconds_per_frame,
        is_last=is_last,
    )


def _named(segments: np.ndarray) -> tuple[Segment, ...]:
    found = [Segment(round(start, 3), round(end, 3), f"speaker_{int(slot)}") for slot, start, end in segments.tolist()]
    return tuple(segment for segment in found if segment.end > segment.start)
