# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is exported: modules of tensors in and tensors out, around a diarizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nemo_sortformer.config.streaming import StreamingConfig
from nemo_sortformer.functional.cache import SpeakerCache
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.inference.export_front_end import RecordingFrontEnd, StreamFrontEnd
from nemo_sortformer.models.diarizer.streaming import init_stream, stream_step
from nemo_sortformer.models.diarizer.streaming_mel import streaming_mel

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import DiarizerOutput, SortformerDiarizer


class RecordingGraph(nn.Module):
    """A diarizer of whole recordings, as one graph.

    Args:
        model: in evaluation mode.
        from_audio: take samples; else mel features, normalized as the model wants them.
    """

    def __init__(self, model: SortformerDiarizer, *, from_audio: bool) -> None:
        super().__init__()
        self.model = model
        self.front_end = RecordingFrontEnd(streaming_mel(model), model.config.level) if from_audio else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the arguments of :meth:`forward`."""
        return ("mel", "mel_lengths") if self.front_end is None else ("audio", "num_samples")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` gives."""
        embeddings = ("embeddings",) if self.model.affinity_head is not None else ()
        activity = ("activity",) if self.model.activity_head is not None else ()
        return ("probs", "lengths", *embeddings, *activity)

    def example(self) -> tuple[Tensor, Tensor]:
        """Arguments to record the graph with."""
        if self.front_end is None:
            bands = int(self.model.config.preprocessor["features"])
            return torch.randn(2, bands, 203), torch.tensor([203, 150])
        return 0.1 * torch.randn(2, 32480), torch.tensor([32480, 24000])

    def forward(self, signal: Tensor, signal_lengths: Tensor) -> tuple[Tensor, ...]:
        """Diarize a batch.

        Args:
            signal: audio (batch, samples), at least one hop; or mel features (batch, bands, hops).
            signal_lengths: valid samples or hops, shape (batch,), int64.

        Returns:
            Probabilities (batch, frames, slots), zero past the lengths; lengths (batch,); then, where the model has
            them, embeddings (batch, frames, dim) and the probabilities that at least one and two speak (batch, frames,
            2).
        """
        if self.front_end is not None:
            signal, signal_lengths = self.front_end(signal, signal_lengths)
        output: DiarizerOutput = self.model.forward_features(signal, signal_lengths)
        lengths = output.lengths
        valid = lengths_to_mask(lengths, output.logits.shape[1])[:, :, None]
        found = [torch.where(valid, output.logits.sigmoid(), 0.0), lengths]
        if output.embeddings is not None:
            found.append(torch.where(valid, output.embeddings, 0.0))
        if output.activity_logits is not None:
            found.append(torch.where(valid, output.activity_logits.sigmoid(), 0.0))
        return tuple(found)


class StreamGraph(nn.Module):
    """One step of streams through a diarizer, as one graph: pieces and state in, probabilities and new state out.

    Args:
        model: in evaluation mode.
        config: settings of the streams; they are fixed in the graph.
        from_audio: take samples, and keep level and normalization in the state; else mel features.
    """

    def __init__(self, model: SortformerDiarizer, config: StreamingConfig, *, from_audio: bool) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.front_end = None
        if from_audio:
            self.front_end = StreamFrontEnd(
                streaming_mel(model),
                model.config.level,
                left_frames=config.chunk_left_context,
                ahead_frames=config.chunk_len + config.chunk_right_context,
                subsampling=model.subsampling,
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the arguments of :meth:`forward` before the state."""
        return ("mel", "mel_lengths") if self.front_end is None else ("audio", "num_samples")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` gives before the new state."""
        return ("probs", "lengths")

    @property
    def num_hops(self) -> int:
        """Hops that one step hears: the chunk and its context."""
        config = self.config
        return (config.chunk_left_context + config.chunk_len + config.chunk_right_context) * self.model.subsampling

    def empty_state(self, batch_size: int = 1) -> dict[str, Tensor]:
        """The state of streams of which nothing has been heard: zeros, by name."""
        state = init_stream(self.model, batch_size, self.config)._asdict()
        return state if self.front_end is None else state | self.front_end.empty(batch_size)

    def example(self) -> tuple[Tensor, ...]:
        """Arguments to record the graph with."""
        state = tuple(tensor.clone() for tensor in self.empty_state(2).values())
        if self.front_end is None:
            bands = int(self.model.config.preprocessor["features"])
            return torch.randn(2, bands, self.num_hops), torch.tensor([self.num_hops, self.num_hops - 9]), *state
        samples = self.front_end.piece_samples
        return 0.1 * torch.randn(2, samples), torch.tensor([samples, samples - 1500]), *state

    def forward(self, signal: Tensor, signal_lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Run a step.

        Args:
            signal: pieces of audio (batch, piece_samples); or mel features (batch, bands, hops of a step).
            signal_lengths: valid samples or hops, shape (batch,), int64.
            state: in the order of :meth:`empty_state`.

        Returns:
            Probabilities of the chunk (batch, chunk_len, slots), its valid frames (batch,), the new state.
        """
        named = dict(zip(self.empty_state(1), state, strict=True))
        memory = SpeakerCache(*(named[name] for name in SpeakerCache._fields))
        mel_state: dict[str, Tensor] = {}
        if self.front_end is not None:
            mel_state = {name: tensor for name, tensor in named.items() if name not in SpeakerCache._fields}
            signal, signal_lengths, mel_state = self.front_end(signal, signal_lengths, memory.frames, mel_state)
        output, memory = stream_step(self.model, signal, signal_lengths, memory, self.config, static=True)
        return output.probs, output.lengths, *memory, *mel_state.values()
