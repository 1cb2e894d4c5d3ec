# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One of the processes of test_tensor_parallel.py: train a split model beside the whole one, and compare.

Arguments: the file for the results, and the groups of cases, functions below. Each process also trains the whole model
in float32 on the whole batch, so that it can compare by itself.
"""

import hashlib
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed import split_randomness, tensor_group
from nemo_sortformer.distributed.activations import Cost, activations_of
from nemo_sortformer.distributed.apply import apply, build_mesh
from nemo_sortformer.distributed.memory import parameters_of
from nemo_sortformer.distributed.tensor_parallel import parallelize_tensors

sys.path.insert(0, str(Path(__file__).parents[1]))
from saved_tensors import saved_bytes  # noqa: E402  beside the tests, which are no package
from small_diarizer import SORTFORMER, TRANSFORMER, build, loss_of, make_batch  # noqa: E402  beside this file

STEPS = 5
AFFINITIES = {"state_encoder": SORTFORMER | {"affinity_layers": 1, "affinity_frames": 5}}


def whole(tensor):
    """A tensor of the whole model, wherever its parts are."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def average_gradients(model, data):
    """Plain data parallelism."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            dist.all_reduce(grad, group=data.get_group())
            grad.div_(data.size())


def train(model, batch, data=None, *, average=False):
    """Losses and first gradients of some steps of AdamW."""
    # The biases of the keys have no gradient but rounding, which Adam with its usual epsilon would make steps of.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4, foreach=False)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        if data is not None and data.size() > 1:
            if average:
                average_gradients(model, data)
            loss = loss.detach().clone()
            dist.all_reduce(loss, group=data.get_group())
            loss /= data.size()
        if step == 0:
            gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, gradients


def relative(a, b):
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-2)) if b.numel() else 0.0


WHOLE = {}
"""What the whole model came to, by settings: made once for all ways to split it."""


def trained_whole(batch, settings):
    """The whole model after some steps, with losses, first gradients and outputs."""
    key = str((batch[0].shape, settings))
    if key not in WHOLE:
        model = build(**settings)
        losses, gradients = train(model, batch)
        with torch.no_grad():
            WHOLE[key] = model, losses, gradients, model.eval().forward_features(*batch[:2]).logits
    return WHOLE[key]


def compare(mesh, *, sequence_parallel=False, batch=None, config=None, **settings):
    """How much losses, gradients, parameters and buffers of the split model differ from those of the whole one."""
    batch = batch or make_batch()
    model, losses, gradients, wanted = trained_whole(batch, settings)
    split = build(**settings)
    names = [name for name, _ in model.named_parameters()]
    if config is None:
        data = mesh["data"]
        parallelize_tensors(split, mesh["tensor"], sequence_parallel=sequence_parallel)
    else:
        own_mesh = build_mesh(config, "cpu")
        data = own_mesh["data_parallel"]
        apply(split, config, own_mesh)
    assert [name for name, _ in split.named_parameters()] == names
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in split.encoder.layers.parameters())
    part = [tensor.chunk(data.size())[data.get_local_rank()] for tensor in batch]  # of equal numbers of valid frames
    own_losses, own_gradients = train(split, part, data, average=config is None)
    assert own_gradients.keys() == gradients.keys()
    buffers = dict(split.named_buffers())
    with torch.no_grad():
        output = split.eval().forward_features(*batch[:2]).logits
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(own_losses, losses, strict=True)),
        "gradient": max(relative(own_gradients[name], grad) for name, grad in gradients.items()),
        "worst gradient": max(gradients, key=lambda name: relative(own_gradients[name], gradients[name])),
        "parameter": max(relative(whole(dict(split.named_parameters())[n]), p) for n, p in model.named_parameters()),
        "buffer": max(relative(whole(buffers[name]).float(), b.float()) for name, b in model.named_buffers()),
        "output": relative(output, wanted),
        "moved": max(relative(p, q) for p, q in zip(model.parameters(), build(**settings).parameters(), strict=True)),
        "held": held / sum(p.numel() for p in model.encoder.layers.parameters()),
        "ranks differ": spread({name: whole(p) for name, p in split.named_parameters()}),
    }


def spread(tensors):
    """Largest difference between the processes' copies of what they should have alike."""
    worst = 0.0
    for tensor in tensors.values():
        copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, tensor.contiguous())
        worst = max(worst, *(float((one - copies[0]).abs().max()) for one in copies))
    return worst


def parity(mesh):
    """Settings that must all agree with the whole model."""
    longformer = {"self_attention_model": "rel_pos_local_attn", "att_context_size": [4, 4], "use_pytorch_sdpa": False}
    cases = {
        "sortformer": {},
        "causal": {"state_encoder": SORTFORMER | {"causal": True}},
        "transformer": {"state_encoder": TRANSFORMER},
        "transformer pre-norm, future masked": {"state_encoder": TRANSFORMER | {"pre_ln": True, "mask_future": True}},
        "batch norm": {"conv_norm_type": "batch_norm"},
        "group norm, tied biases": {"conv_norm_type": "group_norm4", "untie_biases": False},
        "attention by hand": {"use_pytorch_sdpa": False, "att_context_size": [6, 2]},
        "absolute positions": {"self_attention_model": "abs_pos", "conv_norm_type": "instance_norm"},
        "local attention": longformer,
        "no biases, fused norm": {"use_bias": False, "conv_norm_type": "fused_batch_norm"},
        "even frames": {"batch": make_batch(64)},
        "affinities": AFFINITIES,
    }
    results = {}
    for sequence_parallel in (False, True):
        for name, case in cases.items():
            key = name + (", sequence" if sequence_parallel else "")
            results[key] = compare(mesh, sequence_parallel=sequence_parallel, **case)
    return results


def mixed(mesh):
    """Tensor and data parallelism together: by hand, and with divided parameters."""
    results = {}
    for sequence_parallel in (False, True):
        key = "sequence" if sequence_parallel else "tensor"
        results[f"{key}, by hand"] = compare(mesh, sequence_parallel=sequence_parallel)
        for stage in (2, 3):
            config = ParallelConfig(tensor_parallel_size=2, sequence_parallel=sequence_parallel, zero_stage=stage)
            results[f"{key}, stage {stage}"] = compare(mesh, config=config)
    config = ParallelConfig(
        tensor_parallel_size=2, sequence_parallel=True, zero_stage=3, activation_checkpointing=True
    )
    results["transformer, recomputed"] = compare(mesh, config=config, state_encoder=TRANSFORMER)
    return results


def broken(mesh):
    """The same comparison with one exchange left out at a time."""
    results = {}

    def skip(name, backward):
        cls = getattr(tensor_group, name)
        return mock.patch.object(cls, "backward" if backward else "forward", staticmethod(REPLACED[name, backward]))

    for name, backward in REPLACED:
        for sequence_parallel in (False, True):
            with skip(name, backward):
                found = compare(mesh, sequence_parallel=sequence_parallel)
            results[f"{name} {'backward' if backward else 'forward'} {sequence_parallel}"] = found
    return results


def set_group(ctx, group, result):
    """What the backward pass needs to know."""
    ctx.group = group
    return result


REPLACED = {
    ("_AddGradients", True): lambda ctx, grad: (grad, None),
    ("_AddGradientsOfAll", True): lambda ctx, *grads: (None, *grads),
    ("_AddUp", False): lambda ctx, partial, group: partial.clone(),
    ("_JoinParts", True): lambda ctx, grad: (tensor_group._keep(grad, ctx.group, ctx.dim), None, None),
    ("_AddUpParts", False): lambda ctx, partial, group: set_group(ctx, group, tensor_group._keep(partial, group, 1)),
    ("_Exchange", True): lambda ctx, grad: (
        torch.cat([grad.chunk(ctx.group.size, ctx.dims[1])[ctx.group.rank]] * ctx.group.size, ctx.dims[0]),
        None,
        None,
        None,
    ),
    ("_KeepPart", True): lambda ctx, grad: (torch.cat([grad] * ctx.group.size, ctx.dim), None, None),
}


def dropout(mesh):
    """Where random numbers are drawn, in which state the generators of the processes are there."""
    results = {}
    for shared in (False, True):
        for name, encoder in (("sortformer", SORTFORMER), ("transformer", TRANSFORMER)):
            for sequence_parallel in (False, True):
                key = f"{name}{', sequence' if sequence_parallel else ''}{', shared seed' if shared else ''}"
                with mock.patch.object(split_randomness, "seed_of_rank", same_seed) if shared else nullcontext():
                    results[key] = draws(mesh, encoder, sequence_parallel)
    return results


def same_seed(common_seed, rank):
    """What must not be."""
    return common_seed


def draws(mesh, state_encoder, sequence_parallel):
    """One step with dropout: the states of the generators at each draw, the results, and a second run."""
    model = build(state_encoder, dropout=0.2)
    parallelize_tensors(model, mesh["tensor"], sequence_parallel=sequence_parallel)
    states = []

    def record(function):
        def wrapped(*args, **kwargs):
            rate = kwargs.get("dropout_p", kwargs.get("p", args[1] if len(args) > 1 else 0.0))
            training = function is not F.dropout or kwargs.get("training", len(args) < 3 or args[2])
            if training and rate:
                states.append(hashlib.sha1(torch.get_rng_state().numpy().tobytes()).hexdigest())
            return function(*args, **kwargs)

        return wrapped

    torch.manual_seed(5)
    with (
        mock.patch.object(F, "dropout", record(F.dropout)),
        mock.patch.object(F, "scaled_dot_product_attention", record(F.scaled_dot_product_attention)),
    ):
        loss = loss_of(model, *make_batch())
    loss.backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (states, float(loss.detach())))
    alike = [len({rank[0][index] for rank in everyone}) == 1 for index in range(len(states))]
    model.zero_grad()
    torch.manual_seed(5)
    again = recomputed(model)
    return {
        "alike": sum(alike),
        "apart": len(alike) - sum(alike),
        "repeated": len(states) - len(set(states)),
        "losses": [rank[1] for rank in everyone],
        "ranks differ": spread(gradients),
        "generators agree": spread({"state": torch.get_rng_state().float()}) == 0,
        "recomputed loss": abs(float(again) - float(loss.detach())),
        "recomputed gradient": max(
            relative(whole(p.grad), gradients[name]) for name, p in model.named_parameters() if p.grad is not None
        ),
    }


def recomputed(model):
    """The same step with the layers' activations thrown away and computed again."""
    for layer in (*model.encoder.layers, *model.transformer_encoder.layers):
        layer.forward = remember_little(layer.forward)
    loss = loss_of(model, *make_batch())
    loss.backward()
    return loss.detach()


def remember_little(forward):
    """Activation checkpointing of one layer."""
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def memory(mesh):
    """What a process keeps for the backward pass, and its parameters: measured, and by the formulas."""
    results = {}
    batch = make_batch(400)  # 100 frames
    for name, encoder in (("sortformer", SORTFORMER), ("transformer", TRANSFORMER)):
        for norm in ("batch_norm", "layer_norm"):
            for sequence_parallel in (False, True):
                model = build(encoder, dropout=0.1, conv_norm_type=norm)
                held = parameters_of(model, tensor_size=2, sequence_parallel=sequence_parallel)
                cost = Cost(4, 4, False, tensor_size=2, sequence_parallel=sequence_parallel)
                formula = len(batch[0]) * activations_of(model, 100, cost).kept
                parallelize_tensors(model, mesh["tensor"], sequence_parallel=sequence_parallel)
                kept = saved_bytes(lambda model=model: model.forward_features(*batch[:2]).logits, model)
                local = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
                results[f"{name}, {norm}, {sequence_parallel}"] = {
                    "kept": kept,
                    "formula": formula,
                    "parameters": local,
                    "formula parameters": held.total,
                }
    return results


def errors(mesh):
    """What is refused, in which words; and that the model is as before."""
    results = {}
    odd = {
        "heads": {"n_heads": 1, "state_encoder": SORTFORMER},
        "state heads": {"state_encoder": SORTFORMER | {"num_attention_heads": 1}},
        "inner": {"state_encoder": SORTFORMER | {"inner_size": 33}},
        "groups": {"conv_norm_type": "group_norm1"},
        "stochastic depth": {"stochastic_depth_drop_prob": 0.1},
    }
    for name, case in odd.items():
        model = build(**case)
        results[name] = refusal(lambda model=model: parallelize_tensors(model, mesh["tensor"], sequence_parallel=True))
        results[f"{name} untouched"] = not any(isinstance(p, DTensor) for p in model.parameters())
    model = build()
    parallelize_tensors(model, mesh["tensor"], sequence_parallel=True)
    results["twice"] = refusal(lambda: parallelize_tensors(model, mesh["tensor"], sequence_parallel=True))
    linear = torch.nn.Linear(2, 2)
    results["nothing"] = refusal(lambda: parallelize_tensors(linear, mesh["tensor"], sequence_parallel=False))
    results["two dimensions"] = refusal(lambda: parallelize_tensors(build(), mesh, sequence_parallel=False))
    return results


def refusal(call):
    """The message of the ``ValueError`` that `call` must raise."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing was said"


def main(result, *groups):
    """Run groups of cases, save the results of the first process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "tensor"))
    results = {group: globals()[group](mesh) for group in groups}
    if dist.get_rank() == 0:
        torch.save(results, result)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
