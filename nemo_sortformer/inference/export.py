# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A diarizer as a file that needs neither NeMo nor this package: ONNX, or an archive of torch.export."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.streaming import streaming_settings
from nemo_sortformer.inference.engine import evaluating
from nemo_sortformer.inference.export_encoder import exportable
from nemo_sortformer.inference.export_graphs import RecordingGraph, StreamGraph
from nemo_sortformer.inference.export_onnx import require_onnx, run_onnx, save_int8, save_onnx
from nemo_sortformer.inference.model_identity import identify

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

OPSET = 18
"""Of the ONNX files: the oldest that the exporter writes as it is, so that most runtimes read it."""
TOLERANCE = 1e-4
"""Largest difference of a probability from PyTorch's, on the arguments that the graph was recorded with."""
_FORMAT = 1


class ExportError(ValueError):
    """A model could not be exported, or its export does not answer as the model does."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: dict[str, Path]
    """By what they are: `onnx`, `torch`, `int8`, and `description`, the JSON file that says how to call them."""
    largest_difference: float
    """Of a probability from PyTorch's, over the recorded arguments and, for a stream, two steps."""


def export_model(
    model: SortformerDiarizer,
    folder: str | Path,
    *,
    file_format: Literal["onnx", "torch"] = "onnx",
    streaming: bool = False,
    latency: Any = None,
    source: Literal["audio", "mel"] = "audio",
    int8: bool = False,
) -> Exported:
    """Write a diarizer as a graph, with a JSON file that says how to call it, and compare it with the model.

    Batch and time are free in the graph of whole recordings; in that of a stream's step the batch is, and the time is
    that of the latency.

    Args:
        model: float32; it is moved to the CPU.
        folder: where the files go; made where it is missing, and files of an earlier export are replaced.
        file_format: ``onnx``, or ``torch`` for an archive that `torch.export.load` reads.
        streaming: the step of a stream, with its state as inputs and outputs, instead of whole recordings.
        latency: of the stream; see :func:`streaming_settings`.
        source: what goes in: samples, or mel features for callers that have the model's front end.
        int8: also write a copy whose products have 8-bit weights; ONNX only.

    Returns:
        The files, and how far the answers are from PyTorch's.

    Raises:
        ConfigError: an argument is wrong, or the model's front end cannot be exported.
        ImportError: the packages of the extra `export` are missing.
        ExportError: the answers are not the model's; the files are not written then.
    """
    for name, value, allowed in (
        ("file_format", file_format, ("onnx", "torch")),
        ("source", source, ("audio", "mel")),
    ):
        if value not in allowed:
            raise ConfigError(f"`{name}` must be `{allowed[0]}` or `{allowed[1]}`, but is `{value}`.")
    if int8 and file_format != "onnx":
        raise ConfigError("`int8` needs `file_format` to be `onnx`, but that is `torch`.")
    if latency is not None and not streaming:
        raise ConfigError("`latency` is that of a stream: set `streaming`, or leave it out.")
    if file_format == "onnx":
        require_onnx()
    model = model.float().cpu()
    graph: RecordingGraph | StreamGraph
    if streaming:
        config = streaming_settings(model.config.streaming, latency)
        config.check(model.num_slots)
        graph = StreamGraph(model, config, from_audio=source == "audio")
    else:
        graph = RecordingGraph(model, from_audio=source == "audio")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    stem = "stream" if streaming else "diarizer"
    with evaluating(graph), torch.no_grad():
        program = record(graph)
        state = list(graph.empty_state()) if isinstance(graph, StreamGraph) else []
        inputs = [*graph.input_names, *state]
        outputs = [*graph.output_names, *(f"new_{name}" for name in state)]
        suffix = {"onnx": "onnx", "torch": "pt2"}[file_format]
        path, draft = folder / f"{stem}.{suffix}", folder / f".{stem}.part.{suffix}"
        try:
            if file_format == "onnx":
                save_onnx(program, draft, inputs=inputs, outputs=outputs, opset=OPSET)
                run = run_onnx(draft)
            else:
                torch.export.save(program, draft)
                run = torch.export.load(draft).module()
            difference = largest_difference(graph, run)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"The exported graph answers up to {difference:.1e} beside the model, which is more than "
                    f"{TOLERANCE:g}. Its parts may be of a kind that this export does not know."
                )
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        files: dict[str, Path] = {file_format: path}
        if int8:
            files["int8"] = save_int8(path, folder / f"{stem}.int8.onnx")
        about = describe_graph(graph) | {
            "files": {kind: file.name for kind, file in files.items()},
            "opset": OPSET if file_format == "onnx" else None,
            "largest_difference": difference,
        }
    files["description"] = folder / f"{stem}.json"
    files["description"].write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return Exported(files, difference)


def record(graph: RecordingGraph | StreamGraph) -> torch.export.ExportedProgram:
    """Record a graph with free batch, and free time where it is of whole recordings.

    Raises:
        ExportError: the recorder of PyTorch does not get through the model.
    """
    free = torch.export.Dim.DYNAMIC
    example = graph.example()
    time = {} if isinstance(graph, StreamGraph) else {(2 if graph.front_end is None else 1): free}
    shapes: list[Any] = [{0: free, **time}, {0: free}]
    if isinstance(graph, StreamGraph):
        shapes.append(tuple({0: free} for _ in example[2:]))
    with exportable(graph), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(graph, example, dynamic_shapes=tuple(shapes), strict=False)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError, TypeError) as error:
            raise ExportError(f"PyTorch cannot record this model: {error}") from error


def largest_difference(graph: RecordingGraph | StreamGraph, run: Callable[..., Any]) -> float:
    """How far the probabilities of a graph's file are from the model's; of a stream, over two steps."""
    arguments, largest = graph.example(), 0.0
    for _ in range(2 if isinstance(graph, StreamGraph) else 1):
        expected = graph(*arguments)
        if isinstance(graph, RecordingGraph) and graph.front_end is not None:  # also beside the model's own front end
            expected = (graph.model(audio_signal=arguments[0], audio_signal_length=arguments[1]).probs,)
        found = [torch.as_tensor(value) for value in run(*arguments)]
        largest = max(largest, float((found[0] - expected[0]).abs().max()))
        if isinstance(graph, StreamGraph):
            arguments = (*arguments[:2], *expected[2:])
    return largest


def describe_graph(graph: RecordingGraph | StreamGraph) -> dict[str, Any]:
    """What a caller has to know, as plain values."""
    model = graph.model
    about: dict[str, Any] = {
        "format": _FORMAT,
        "made_by": f"nemo_sortformer {version('nemo_sortformer')}",
        "model": str(identify(model)),
        "kind": "stream" if isinstance(graph, StreamGraph) else "recording",
        "sample_rate": model.config.sample_rate,
        "slots": model.num_slots,
        "frame_seconds": model.frame_seconds,
        "hop_samples": model.hop_samples,
        "hops_per_frame": model.subsampling,
        "level": model.config.level,
        "mel": {key: value for key, value in model.config.preprocessor.items() if _is_plain(value)},
        "segments": {key: value for key, value in asdict(model.config.inference).items() if _is_plain(value)},
        "inputs": [_port(*pair) for pair in zip(graph.input_names, graph.example(), strict=False)],
        "outputs": list(graph.output_names),
        "state": [],
    }
    if isinstance(graph, StreamGraph):
        config = graph.config
        about["state"] = [_port(name, tensor) for name, tensor in graph.empty_state(1).items()]
        about["latency"] = asdict(config)
        about["latency_seconds"] = config.latency_seconds(model.frame_seconds)
        about["step_hops"] = config.chunk_len * model.subsampling
        about["step_samples"] = config.chunk_len * model.subsampling * model.hop_samples
        if graph.front_end is not None:
            about["lead_samples"] = graph.front_end.history_hops * model.hop_samples
            about["piece_samples"] = graph.front_end.piece_samples
    else:
        for port in about["inputs"]:
            port["shape"] = ["batch", *port["shape"][1:]]
        about["inputs"][0]["shape"][-1] = "time"
    return about


def _port(name: str, tensor: Tensor) -> dict[str, Any]:
    """Name, type and shape for a batch of one; the batch is the first axis."""
    return {"name": name, "dtype": str(np.dtype(tensor.numpy().dtype)), "shape": [1, *tensor.shape[1:]]}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
