# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One step of a stream: features of a chunk and the memory in, probabilities and the new memory out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nemo_sortformer.config.streaming import StreamingConfig, streaming_settings
from nemo_sortformer.functional.cache import CacheRule, SpeakerCache, empty_cache, pack, take, update_cache
from nemo_sortformer.functional.frames import lengths_to_mask

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


class StreamOutput(NamedTuple):
    """What the model says about the new frames of a batch of streams."""

    probs: Tensor
    """Speech probabilities, shape (batch, frames, slots), float32, zero past `lengths`."""
    lengths: Tensor
    """New frames of each stream, shape (batch,)."""
    window_lengths: Tensor
    """Frames heard in time order, the cache left out: the queue, the new frames, their right context; (batch,)."""
    window_probs: Tensor
    """What is said of all these by now, shape (batch, frames, slots), float32."""
    window_embeddings: Tensor | None
    """Their affinity embeddings, shape (batch, frames, dim), float32, or None."""
    window_activity: Tensor | None
    """Probabilities that at least one, and at least two speak, shape (batch, frames, 2), or None."""


def cache_rule(config: StreamingConfig) -> CacheRule:
    """The part of the settings that says what is remembered."""
    return CacheRule(**{name: getattr(config, name) for name in CacheRule._fields})


def init_stream(model: SortformerDiarizer, batch_size: int = 1, config: StreamingConfig | None = None) -> SpeakerCache:
    """The memory of streams of which nothing has been heard, on the model's device and in its dtype.

    Args:
        model: the diarizer.
        batch_size: number of streams.
        config: sizes of the memory; those of the model where None.

    Raises:
        ConfigError: the cache has no room for the model's speakers.
    """
    config = streaming_settings(model.config.streaming) if config is None else config
    config.check(model.num_slots)
    encoder: Any = model.encoder
    return empty_cache(
        batch_size,
        width=int(encoder.d_model),
        num_slots=model.num_slots,
        rule=cache_rule(config),
        device=model.device,
        dtype=model.dtype,
    )


def stream_step(
    model: SortformerDiarizer,
    mel: Tensor,
    lengths: Tensor,
    state: SpeakerCache,
    config: StreamingConfig | None = None,
    *,
    static: bool | None = None,
) -> tuple[StreamOutput, SpeakerCache]:
    """Run one chunk of each stream of a batch; what is said of a stream does not depend on the others.

    The chunk comes with its context: `chunk_left_context` frames before it (as many as the stream has had, if those
    are fewer), and up to `chunk_right_context` after it. A chunk shorter than `chunk_len` has no right context.

    Args:
        model: in evaluation mode.
        mel: normalized features, shape (batch, bands, hops); zero past `lengths`.
        lengths: valid hops, context included, shape (batch,). 0 leaves a stream as it is.
        state: the memory; it is not changed.
        config: settings of the stream; those of the model where None.
        static: make all tensors as long as the settings allow, and read nothing back from the device; by default so
            on a GPU, where waiting costs more than padding. Sums in another order apart, the numbers are the same.

    Returns:
        The answers and the new memory.

    Source: ``forward_streaming_step`` of NeMo, with the lengths of each stream as in its asynchronous mode.
    """
    config = streaming_settings(model.config.streaming) if config is None else config
    rule, factor = cache_rule(config), model.subsampling
    static = mel.device.type != "cpu" if static is None else static
    state = state.to(mel.device, model.dtype)
    encoder: Any = model.encoder
    chunk, _ = encoder.pre_encode(x=mel.transpose(1, 2).to(model.dtype), lengths=lengths)
    chunk = chunk.to(model.dtype)  # under autocast it may have another
    heard = (lengths + factor - 1).div(factor, rounding_mode="floor")  # some encoders round by the longest of a batch
    left = torch.minimum(state.frames, torch.full_like(state.frames, config.chunk_left_context))
    left = torch.minimum(left, heard)
    new = (heard - left).clamp(max=config.chunk_len)
    old = state.cache_lengths + state.fifo_lengths
    most = state.cache.shape[1] + state.fifo.shape[1]
    total = old + heard
    packed = pack(
        [state.cache, state.fifo, chunk],
        [state.cache_lengths, state.fifo_lengths, heard],
        size=most + chunk.shape[1] if static else int(total.max()),
    )
    features, _ = encoder(audio_signal=packed, length=total, bypass_pre_encode=True)
    output = model.forward_encoded(features, total)
    probs = torch.sigmoid(output.logits.float())
    probs = torch.where(lengths_to_mask(total, probs.shape[1])[:, :, None], probs, 0)

    start, size = old + left, min(config.chunk_len, chunk.shape[1])
    chunk_probs = take(probs, start, new, size=size)
    new_state = update_cache(
        state, take(chunk, left, new, size=size), new, chunk_probs, probs[:, :most], rule, static=static
    )
    queue_size, later_size = state.fifo.shape[1], size + config.chunk_right_context

    def window(values: Tensor) -> Tensor:
        """The rows of what is heard in time order; the left context is left out, as the queue has it already."""
        queue = take(values, state.cache_lengths, state.fifo_lengths, size=queue_size)
        later = take(values, start, heard - left, size=later_size)
        return pack([queue, later], [state.fifo_lengths, heard - left], size=queue_size + later_size)

    activity = output.activity_logits
    answer = StreamOutput(
        probs=chunk_probs,
        lengths=new,
        window_lengths=state.fifo_lengths + heard - left,
        window_probs=window(probs),
        window_embeddings=None if output.embeddings is None else window(output.embeddings.float()),
        window_activity=None if activity is None else window(torch.sigmoid(activity.float())),
    )
    return answer, new_state
