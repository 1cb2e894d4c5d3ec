# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Every kind of SortFormer encoder is one graph: no break for torch.compile, and the same numbers as ONNX."""

import pytest
import torch
import torch.nn.functional as F

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import SortformerEncoder

AFFINITIES = {"affinity_layers": 1, "affinity_frames": 5}
KINDS = {
    "offline": {},
    "hard": {"measure": "hard"},
    "no positions": {"positions": "none"},
    "no convolution": {"conv_kernel": 0},
    "causal": {"causal": True},
    "causal rope": {"causal": True, "positions": "rope"},
    "unsorted": {"sort": False},
    "no feedback": {"feedback": False},
    "affinities": AFFINITIES,
    "affinities, causal": AFFINITIES | {"causal": True},
}


def build(kind):
    torch.manual_seed(0)
    return SortformerEncoder(3, 16, 32, 2, 4, dropout=0.0, **KINDS[kind]).eval()


def inputs(kind, lengths):
    """States, mask, and what else this kind reads."""
    generator = torch.Generator().manual_seed(len(lengths))
    frames = max(lengths)
    states = torch.randn(len(lengths), frames, 16, generator=generator)
    mask = lengths_to_mask(torch.tensor(lengths), frames)
    if "affinities" not in kind:
        return states, mask
    return states, mask, F.normalize(torch.randn(len(lengths), frames, 8, generator=generator), dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_finds_one_graph_without_a_break(kind, training):
    encoder = build(kind).train(training)
    torch._dynamo.reset()
    with torch.set_grad_enabled(training):
        found = torch._dynamo.explain(encoder.forward_with_labels)(*inputs(kind, [30, 21]))
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["offline", "affinities", "affinities, causal"])
def test_a_compiled_encoder_trains_as_the_plain_one(kind):
    gradients = []
    for compiled in (False, True):
        encoder = build(kind).double().train()
        states, mask, *rest = (x.double() if x.is_floating_point() else x for x in inputs(kind, [30, 21]))
        rest = [one.requires_grad_() for one in rest]
        torch._dynamo.reset()
        run = encoder.forward_with_labels
        run = torch.compile(run, backend="aot_eager", fullgraph=True) if compiled else run
        output, labels = run(states, mask, *rest)
        (output.square().sum() + sum(one.square().sum() for one in labels)).backward()
        gradients.append([*(parameter.grad for parameter in encoder.parameters()), *(one.grad for one in rest)])
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_onnx_runtime_gives_the_same_numbers_for_any_batch_and_length(kind, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"`{package}` is not installed: pip install nemo_sortformer[export]")
    import onnxruntime

    encoder = build(kind)
    encoder.forward = encoder.forward_with_labels
    example = inputs(kind, [30, 21])
    batch, frames = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("frames", min=16, max=4096)
    program = torch.onnx.export(
        encoder, example, dynamo=True, dynamic_shapes=tuple({0: batch, 1: frames} for _ in example), verbose=False
    )
    program.save(tmp_path / "encoder.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", options)
    for lengths in ([47, 21, 8], [16, 1]):
        given = inputs(kind, lengths)
        names = [port.name for port in session.get_inputs()]
        output, *labels = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
        expected, expected_labels = encoder.forward_with_labels(*given)
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=2e-5)
        for found, wanted in zip(labels, expected_labels, strict=True):
            valid = given[1]
            torch.testing.assert_close(torch.from_numpy(found)[valid], wanted[valid], rtol=0, atol=1e-3)
