# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recorded graphs as ONNX files, in float32 and with 8-bit weights, and running them in onnxruntime."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_PRODUCTS = ("MatMul", "Gemm")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Stop where the packages that write and run ONNX files are missing.

    Raises:
        ImportError: they are.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"To export to ONNX, `{'` and `'.join(missing)}` must be installed. Do so by "
            '`pip install "nemo_sortformer[export]"`.'
        )


def save_onnx(
    program: torch.export.ExportedProgram, path: Path, *, inputs: list[str], outputs: list[str], opset: int
) -> None:
    """Write a recorded graph as one ONNX file."""
    with _quiet():
        found = torch.onnx.export(
            program,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
        if found is None:
            raise ValueError("The ONNX exporter of PyTorch gave nothing.")
        found.save(path)


def run_onnx(path: Path, *, threads: int = 0) -> Callable[..., list[Any]]:
    """A function that runs an ONNX file on the CPU: tensors or arrays in order in, arrays in order out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(*values: Any) -> list[Any]:
        arrays = [value.numpy() if isinstance(value, torch.Tensor) else value for value in values]
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    return run


def save_int8(path: Path, target: Path) -> Path:
    """Write a copy of an ONNX file whose matrix products have 8-bit weights, scaled channel by channel.

    The activations are turned into 8 bits while it runs, so that no calibration is needed. Convolutions, the mel front
    end among them, and all that is no product stay as they are.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(path), load_external_data=False).graph
    matrices = {weight.name for weight in graph.initializer if len(weight.dims) == 2}
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    with _quiet():
        quantize_dynamic(
            str(path),
            str(target),
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=[node.name for node in products if node.input[1] not in matrices],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the exporters keep to themselves what a user can do nothing about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # PyTorch's loggers have levels of their own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
