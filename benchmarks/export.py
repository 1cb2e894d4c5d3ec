# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Exported networks beside PyTorch: size, time and DER, float32 and 8-bit weights: `python -m benchmarks.export`.

Every network gets the same mel features and hands its answers to the same pipeline, that of `diarize`. Times are of
the network on one minute of features, batch 1, on `--threads` threads each. DER is that of the sessions of a manifest,
collar 0.25 s, overlap scored; without `--manifest` there is none. "changed" is the largest and the mean change of a
probability on that minute.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import best_seconds, report
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.inference.checkpoint import load_model
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.export import export_model
from nemo_sortformer.inference.export_graphs import RecordingGraph
from nemo_sortformer.inference.export_onnx import run_onnx
from nemo_sortformer.inference.score import CONDITIONS, score_sessions
from nemo_sortformer.inference.score_inputs import pair_sessions
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.models.diarizer.model import DiarizerOutput
from nemo_sortformer.modules.lean_conformer import use_lean_inference

SECONDS = 60.0


def main() -> None:
    """Export, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None, help="a .nemo file instead of the shipped one")
    parser.add_argument("--manifest", type=Path, default=None, help="sessions with their truth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = load_model(arguments.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = export_model(model, folder, source="mel", int8=True).files
        use_lean_inference(model.encoder)
        own = RecordingGraph(model, from_audio=False).eval()
        onnx, int8 = (run_onnx(files[kind], threads=arguments.threads) for kind in ("onnx", "int8"))
        networks: dict[str, Callable[..., list[Tensor] | list[np.ndarray]]] = {
            "PyTorch": lambda *given: list(own(*given)),
            "onnxruntime": onnx,
            "onnxruntime, 8 bits": int8,
        }
        given = features(model, arguments.manifest)
        best = best_seconds({name: lambda run=run: run(*given) for name, run in networks.items()}, arguments.rounds)
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        sizes = dict(zip(networks, (weights, files["onnx"].stat().st_size, files["int8"].stat().st_size)))
        answers = {name: np.asarray(run(*given)[0]) for name, run in networks.items()}
        rows = []
        for name, run in networks.items():
            change = np.abs(answers[name] - answers["PyTorch"])
            rows.append(
                {
                    "network": name,
                    "MB": sizes[name] / 1e6,
                    "ms per minute": 1e3 * best[name],
                    "PyTorch / it": best["PyTorch"] / best[name],
                    "changed most": float(change.max()),
                    "changed, mean": float(change.mean()),
                    "DER %": None if arguments.manifest is None else error_rate(model, run, arguments.manifest),
                }
            )
    report("export", rows, model=arguments.model or "shipped", threads=arguments.threads)


def features(model: SortformerDiarizer, manifest: Path | None) -> tuple[Tensor, Tensor]:
    """Mel features of one minute of the sessions, or of noise."""
    rate = model.config.sample_rate
    count = round(SECONDS * rate)
    audio = np.random.default_rng(0).standard_normal(count).astype(np.float32) * 0.05
    if manifest is not None:
        paths = [entry.audio_filepath for entry in read_manifest(manifest)]
        audio = np.resize(np.concatenate([read_audio(path, sample_rate=rate) for path in paths[:3]]), count)
    return model.mel_features(torch.from_numpy(audio)[None], torch.tensor([count]))


def error_rate(
    model: SortformerDiarizer, run: Callable[..., list[Tensor] | list[np.ndarray]], manifest: Path
) -> float:
    """DER in percent of the model's pipeline around a network."""
    with standing_in(model, run):
        answers = {result.recording: result.segments for result in diarize_recordings(model, str(manifest))}
    return 100 * score_sessions(pair_sessions(manifest, answers).sessions).total(CONDITIONS[0]).der


@contextmanager
def standing_in(model: SortformerDiarizer, run: Callable[..., list[Tensor] | list[np.ndarray]]) -> Iterator[None]:
    """Let another network answer in place of the model's."""
    names = RecordingGraph(model, from_audio=False).output_names

    def forward_features(mel: Tensor, mel_lengths: Tensor) -> DiarizerOutput:
        del model.__dict__["forward_features"]  # the network may be the model itself
        try:
            values = run(mel, mel_lengths)
        finally:
            model.__dict__["forward_features"] = forward_features
        found = {name: torch.as_tensor(value) for name, value in zip(names, values, strict=True)}
        activity = found.get("activity")
        return DiarizerOutput(
            logits=torch.logit(found["probs"], eps=1e-7),
            lengths=found["lengths"],
            layer_logits=[],
            embeddings=found.get("embeddings"),
            activity_logits=None if activity is None else torch.logit(activity, eps=1e-7),
        )

    model.__dict__["forward_features"] = forward_features
    try:
        yield
    finally:
        del model.__dict__["forward_features"]


if __name__ == "__main__":
    main()
