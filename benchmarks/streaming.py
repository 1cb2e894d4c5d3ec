# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time of a streaming step at published size beside NeMo's, same weights: `python -m benchmarks.streaming`.

NeMo's streaming model (128 mels, 17 FastConformer layers of width 512, 18 Transformer layers of width 192) is made
with random weights, saved, and restored into our model, in float32, bfloat16 and 8 bits. All then take the same step,
with a full speaker cache and the queue as long as it gets, which is the slowest step there is; their probabilities are
compared first. "flat" is the time of our step after an hour over that after a minute: the memory is filled by its own
rule, without the network, which would need the hour. "streams" is how many streams of that latency the machine as
named holds in real time. With `--accuracy` the shipped checkpoint streams the recordings of a manifest in each
precision. Ratios above one are in our favour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import SortformerEncLabelModel
from nemo.collections.asr.modules.sortformer_modules import StreamingSortformerState
from nemo.utils import logging
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.diarize import nemo_config
from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.config.streaming import LATENCIES, StreamingConfig, streaming_settings
from nemo_sortformer.functional.cache import SpeakerCache, update_cache
from nemo_sortformer.inference.precision import in_precision
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.diarizer.streaming import cache_rule, init_stream, stream_step

ROUGH = ("bfloat16", "int8")
"""The precisions measured besides float32; a GPU has the first alone."""
MAX_DIFFERENCE = 1e-4
"""Largest difference of two probabilities that counts as the same number after 35 layers in float32."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the models, compare, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", nargs="+", default=list(LATENCIES), help="presets")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="streams per step")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    parser.add_argument("--layers", type=int, help="layers of each encoder, in place of the published number")
    parser.add_argument("--flat-minutes", type=float, nargs=2, default=[1.0, 60.0], help="ages of a stream compared")
    parser.add_argument("--accuracy", metavar="FOLDER", help="manifest.jsonl with RTTM to stream with our checkpoint")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.setLevel(logging.ERROR)
    if options.accuracy:
        report("streaming_accuracy", accuracy_rows(Path(options.accuracy), options.latency, options.device))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = build_models(Path(folder), options.device, options.layers)
    rows = [
        measure(models, latency, batch, options.rounds, options.flat_minutes)
        for latency in options.latency
        for batch in options.batch
    ]
    report("streaming", rows, device=options.device, rounds=options.rounds, seed=0)


def build_models(folder: Path, device: str, layers: int | None = None) -> dict[str, nn.Module]:
    """NeMo's model with random weights; ours, restored from its file, in each precision."""
    torch.manual_seed(0)
    theirs = SortformerEncLabelModel(cfg=streaming_nemo_config(layers))
    path = str(folder / "nemo.nemo")
    theirs.save_to(path)
    ours = SortformerDiarizer.restore_from(path, map_location=device).eval()
    precisions = ROUGH if device == "cpu" else ROUGH[:1]
    rough = {name: in_precision(ours, name) for name in precisions}
    return {"nemo": theirs.to(device).eval(), "ours": in_precision(ours, None), **rough}


def streaming_nemo_config(layers: int | None = None) -> DictConfig:
    """NeMo's settings of `diar_streaming_sortformer_4spk-v2`, as published."""
    config = nemo_config()
    config.streaming_mode, config.async_streaming = True, False
    config.preprocessor.update(normalize="NA", features=128)
    config.encoder.update(feat_in=128, n_layers=layers or 17)
    config.transformer_encoder.num_layers = layers or 18
    config.sortformer_modules.update({"spkcache_len": 188, "chunk_left_context": 1, **LATENCIES["1.04s"]})
    return config


@torch.inference_mode()
def measure(
    models: dict[str, nn.Module], latency: str, batch: int, rounds: int, minutes: Sequence[float]
) -> dict[str, Any]:
    """One row: the slowest step of this latency and batch, each model's time and memory."""
    config = streaming_settings(models["ours"].config.streaming, latency)
    mel, lengths = chunk_of(models["ours"], config, batch)
    state, old = full_memory(models["ours"], config, batch)
    calls: dict[str, Callable[[], Any]] = {
        "nemo": partial(nemo_step, models["nemo"], config, mel, lengths, state, old),
        "ours": partial(stream_step, models["ours"], mel, lengths, state, config),
    }
    others = [name for name in ROUGH if name in models]
    calls |= {name: partial(stream_step, models[name], mel, lengths, state, config) for name in others}
    expected = calls["nemo"]()
    found = calls["ours"]()[0].probs
    change = {name: (calls[name]()[0].probs - found).abs().mean().item() for name in others}
    difference = (found - expected).abs().max().item()
    if not difference < MAX_DIFFERENCE:
        raise RuntimeError(f"The probabilities differ by {difference}: a benchmark of another function says nothing.")
    for name, minute in zip(("early", "late"), minutes, strict=True):
        aged = aged_memory(models["ours"], config, batch, minute)
        calls[name] = partial(stream_step, models["ours"], mel, lengths, aged, config)
    spent = best_seconds(calls, rounds)
    memory = {name: peak_bytes(calls[name]) for name in ("nemo", "ours")}
    seconds = config.chunk_len * models["ours"].frame_seconds
    return {
        "latency": latency,
        "streams per step": batch,
        "NeMo [s]": spent["nemo"],
        "ours [s]": spent["ours"],
        **{f"ours {name} [s]": spent[name] for name in others},
        "ratio": spent["nemo"] / spent["ours"],
        **{f"ratio {name}": spent["nemo"] / spent[name] for name in others},
        "NeMo streams": batch * seconds / spent["nemo"],
        "streams": batch * seconds / spent["ours"],
        **{f"streams {name}": batch * seconds / spent[name] for name in others},
        "flat": spent["late"] / spent["early"],
        "NeMo [MB]": memory["nemo"] / 1e6,
        "ours [MB]": memory["ours"] / 1e6,
        "largest difference": difference,
        **{f"mean change by {name}": change[name] for name in others},
    }


def chunk_of(model: nn.Module, config: StreamingConfig, batch: int) -> tuple[Tensor, Tensor]:
    """Features of a chunk with all of its context, and their length."""
    frames = config.chunk_left_context + config.chunk_len + config.chunk_right_context
    bands = int(model.config.preprocessor["features"])
    mel = torch.randn(batch, bands, frames * model.subsampling, generator=torch.Generator().manual_seed(1))
    return mel.to(model.device), torch.full((batch,), mel.shape[2], device=model.device)


def full_memory(model: nn.Module, config: StreamingConfig, batch: int) -> tuple[SpeakerCache, Tensor]:
    """A stream with a full cache and the queue as long as it gets; and the cache's probabilities."""
    state = init_stream(model, batch, config)
    generator = torch.Generator().manual_seed(2)
    cache, fifo = (0.1 * torch.randn(tensor.shape, generator=generator) for tensor in (state.cache, state.fifo))
    # the queue is emptied when it outgrows its length, and grows by whole chunks from there
    kept = max(config.fifo_len + config.chunk_len - config.spkcache_update_period, 0)
    longest = max((n for n in range(kept, config.fifo_len + 1) if (n - kept) % config.chunk_len == 0), default=0)
    fifo[:, longest:] = 0
    probs = torch.rand(state.cache_probs.shape, generator=generator)
    full = torch.full_like(state.cache_lengths, config.spkcache_len)
    return (
        state._replace(
            cache=cache.to(state.cache),
            cache_probs=probs.to(model.device),
            cache_lengths=full,
            compressed=torch.ones_like(state.compressed),
            fifo=fifo.to(state.fifo),
            fifo_lengths=torch.full_like(full, longest),
            frames=full + 10_000,
        ),
        probs.to(model.device),
    )


def aged_memory(model: nn.Module, config: StreamingConfig, batch: int, minutes: float) -> SpeakerCache:
    """A stream after so many minutes: the memory has gone through all of its steps, on random frames."""
    state, generator = init_stream(model, batch, config), torch.Generator().manual_seed(3)
    rule, slots, width = cache_rule(config), model.num_slots, state.cache.shape[2]
    lengths = torch.full((batch,), config.chunk_len, device=model.device)
    for _ in range(max(round(minutes * 60 / (config.chunk_len * model.frame_seconds)), 1)):
        frames = torch.randn(1, config.chunk_len, width, generator=generator).expand(batch, -1, -1)
        probs = torch.rand(1, rule.spkcache_len + rule.fifo_len + config.chunk_len, slots, generator=generator) ** 3
        probs = probs.expand(batch, -1, -1).to(model.device)
        new, old = probs[:, : config.chunk_len], probs[:, config.chunk_len :]
        state = update_cache(state, frames.to(state.cache), lengths, new, old, rule, static=False)
    return state


def nemo_step(
    model: nn.Module, config: StreamingConfig, mel: Tensor, lengths: Tensor, state: SpeakerCache, probs: Tensor
) -> Tensor:
    """NeMo's step from the same memory: the probabilities of the chunk."""
    modules = model.sortformer_modules
    for name in ("spkcache_len", "fifo_len", "chunk_len", "spkcache_update_period", "chunk_right_context"):
        setattr(modules, name, getattr(config, name))
    queue = int(state.fifo_lengths[0])
    theirs = StreamingSortformerState()
    theirs.spkcache, theirs.spkcache_preds = state.cache, probs
    theirs.fifo = state.fifo[:, :queue]
    theirs.mean_sil_emb, theirs.n_sil_frames = state.silence_mean, state.silence_count
    _, found = model.forward_streaming_step(
        processed_signal=mel.transpose(1, 2),
        processed_signal_length=lengths,
        streaming_state=theirs,
        total_preds=mel.new_zeros(len(mel), 0, probs.shape[2]),
        left_offset=config.chunk_left_context * model.encoder.subsampling_factor,
        right_offset=config.chunk_right_context * model.encoder.subsampling_factor,
    )
    return found


def accuracy_rows(folder: Path, latencies: Sequence[str], device: str) -> list[dict[str, Any]]:
    """DER of the shipped checkpoint on the recordings of a manifest: whole, and streamed in each precision."""
    from nemo_sortformer import load_shipped, read_audio, read_manifest, read_rttm
    from nemo_sortformer.inference.diarize import diarize_recordings
    from nemo_sortformer.inference.score import Condition, Session, score_sessions

    model = load_shipped(map_location=device)
    precisions = ROUGH if device == "cpu" else ROUGH[:1]
    ways = {"stream": model} | {f"stream, {name}": in_precision(model, name) for name in precisions}
    lines = list(read_manifest(folder / "manifest.jsonl"))
    truth = [[s for segments in read_rttm(line.rttm_filepath).values() for s in segments] for line in lines]
    audio = [read_audio(line.audio_filepath, offset=line.offset, duration=line.duration) for line in lines]
    condition = Condition(0.25, False)

    def row(name: str, latency: str, answers: list[Any], started: float) -> dict[str, Any]:
        pairs = zip(truth, answers, strict=True)
        sessions = [Session(str(i), reference, answer) for i, (reference, answer) in enumerate(pairs)]
        scores = score_sessions(sessions, [condition])
        counts = scores.total(condition)
        return {
            "way": name,
            "latency": latency,
            "DER [%]": 100 * counts.der,
            "missed [%]": 100 * counts.missed / counts.speech,
            "false alarm [%]": 100 * counts.false_alarm / counts.speech,
            "confused [%]": 100 * counts.confusion / counts.speech,
            "right number of speakers [%]": 100 * scores.speaker_count_accuracy,
            "real-time factor": (time.perf_counter() - started) / (sum(map(len, audio)) / 16000),
        }

    started = time.perf_counter()
    whole = diarize_recordings(model, audio, sample_rate=16000)
    rows = [row("whole recordings", "-", [list(result.segments) for result in whole], started)]
    for latency in latencies:
        for name, one in ways.items():
            started = time.perf_counter()
            streams = [list(one.stream(samples, latency=latency)) for samples in audio]
            answers = [[segment for update in updates for segment in update.finished] for updates in streams]
            rows.append(row(name, latency, answers, started))
    return rows


if __name__ == "__main__":
    main()
