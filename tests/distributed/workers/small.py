# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the scripts beside this one share: a small diarizer, its data, and training it in any layout."""

import functools
import logging
import os
import warnings
from itertools import count
from unittest import mock

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from torch.distributed.tensor import DTensor

import nemo_sortformer.distributed  # noqa: F401 - the strategy
from nemo_sortformer.distributed import units
from nemo_sortformer.models.diarizer import SortformerDiarizer

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
HOP = 1280
"""Samples per output frame."""


def settings(
    parallel=None, *, norm="layer_norm", dropout=0.0, optim=None, state_encoder="SortformerEncoder", **changes
):
    """Settings of a small diarizer without anything random, unless `dropout`."""
    transformer = {
        "_target_": f"nemo_sortformer.modules.{state_encoder}",
        "num_layers": 2,
        "hidden_size": 16,
        "inner_size": 32,
        "num_attention_heads": 2,
    }
    if state_encoder == "SortformerEncoder":
        transformer |= {"conv_kernel": 5, "dropout": dropout}
    else:
        transformer |= {"ffn_dropout": dropout}
    return OmegaConf.create(
        {
            "max_num_of_spks": 3,
            "preprocessor": {"features": 40, "dither": 0.0},
            "encoder": {
                "_target_": "nemo.collections.asr.modules.ConformerEncoder",
                "feat_in": 40,
                "n_layers": 2,
                "d_model": 32,
                "subsampling": "dw_striding",
                "subsampling_factor": 8,
                "subsampling_conv_channels": 8,
                "ff_expansion_factor": 2,
                "n_heads": 4,
                "conv_kernel_size": 5,
                "conv_norm_type": norm,
                "dropout": dropout,
                "dropout_pre_encoder": dropout,
                "dropout_emb": 0.0,
                "dropout_att": 0.0,
            },
            "sortformer_modules": {"dropout_rate": dropout},
            "transformer_encoder": transformer,
            "affinity": {"dim": 8, "weight": 0.5, "max_frames": 64},
            "loss": {"layer_weight": 0.2 if state_encoder == "SortformerEncoder" else 0.0},
            "optim": optim or {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
            "parallel": parallel,
            **changes,
        }
    )


def recordings(number, *, seconds=(2.0, 3.2, 1.2, 2.4), silent=()):
    """The global batch of step `number`: a list of (audio, targets), of unlike lengths."""
    items = []
    for index, duration in enumerate(seconds):
        generator = torch.Generator().manual_seed(1000 * number + index)
        frames = round(duration * 16000 / HOP)
        targets = torch.zeros(frames, 3)
        audio = 0.01 * torch.randn(frames * HOP, generator=generator)
        for slot in range(0 if index in silent else 2 + (index + number) % 2):
            start = int(torch.randint(0, frames // 2, (), generator=generator))
            end = start + int(torch.randint(3, frames // 2 + 3, (), generator=generator))
            targets[start:end, slot] = 1.0
            span = torch.arange(start * HOP, min(end, frames) * HOP)
            audio[span] += 0.2 * torch.sin(2 * torch.pi * (170 + 90 * slot + 20 * number) * span / 16000)
        items.append((audio, targets))
    return items


def collate(items):
    """Pad recordings to a batch."""
    pad = torch.nn.utils.rnn.pad_sequence
    audio, targets = zip(*items)
    return (
        pad(list(audio), batch_first=True),
        torch.tensor([len(one) for one in audio]),
        pad(list(targets), batch_first=True),
        torch.tensor([len(one) for one in targets]),
    )


def share(batches, rank, size, *, collate=collate):
    """What process `rank` of `size` reads of global batches: each `size`-th recording, from its own on."""
    return [collate(items[rank::size]) for items in batches]


class Batches(torch.utils.data.Dataset):
    """Batches made beforehand."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Diarizer(SortformerDiarizer):
    """A diarizer with batches of its own; it draws its affinity frames from all, so that no draw can differ."""

    data = None
    validation = None
    collate = staticmethod(collate)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Batches(self.data), batch_size=None)

    def val_dataloader(self):
        return (
            [] if self.validation is None else torch.utils.data.DataLoader(Batches(self.validation), batch_size=None)
        )


class Watch(Callback):
    """Keeps the losses, and the gradients of all steps, before they are clipped."""

    def __init__(self):
        self.losses, self.gradients = [], {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients[trainer.global_step] = {name: full(grad).clone() for name, grad in grads.items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def full(tensor):
    """The whole of a tensor that may be divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def whole_state(model):
    """Whole weights and buffers."""
    return {name: full(value).clone() for name, value in model.state_dict().items()}


class DoubleDiarizer(Diarizer):
    """The same in float64, where sums in another order are the same to twelve digits."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.double()

    def compute_losses(self, batch):
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):  # losses are float32 otherwise
            return super().compute_losses(batch)

    def forward_features(self, features, lengths, **options):
        return super().forward_features(features.double(), lengths, **options)


def new_model(cfg, *, trainer=None, seed=0, kind=Diarizer):
    """A model whose weights are those of `seed`."""
    torch.manual_seed(seed)
    return kind(cfg=cfg, trainer=trainer)


def data_rank(parallel):
    """Number among the data-parallel processes, and how many those are."""
    tensor = (parallel or {}).get("tensor_parallel_size", 1)
    return RANK // tensor, max(1, WORLD // tensor)


def train(
    cfg,
    batches,
    *,
    strategy="nemo_sortformer",
    validation=None,
    seed=0,
    callbacks=(),
    ckpt=None,
    kind=Diarizer,
    **options,
):
    """Train on this process's share of global batches."""
    options = {"max_steps": len(batches), "max_epochs": -1, "log_every_n_steps": 1} | options
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("SORTFORMER_DEVICES", WORLD)),
        strategy=strategy,
        logger=False,
        enable_checkpointing=options.pop("enable_checkpointing", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[watch, *callbacks],
        **options,
    )
    model = new_model(cfg, trainer=trainer, seed=seed, kind=kind)
    rank, size = data_rank(cfg.get("parallel"))
    model.data = share(batches, rank, size, collate=kind.collate)
    if validation is not None:
        model.validation = share(validation, rank, size, collate=kind.collate)
    trainer.fit(model, ckpt_path=ckpt)
    return trainer, model, watch


def reference(cfg, batches, *, accumulate=1, clip=None, skip=None, seed=0, kind=Diarizer, half=None):
    """The same training by hand, in one process: losses, gradients and norms per step, weights at last.

    With `half`, a :class:`Half`, in its precision, otherwise in that of the weights.

    Step `skip` changes no weight, and the schedule of the learning rate does not count it.
    """
    cfg = OmegaConf.merge(cfg, {"parallel": None})
    model = new_model(cfg, seed=seed, kind=kind)
    model.encoder.sync_max_audio_length = False  # one process alone would wait for the others
    optim = dict(cfg.optim)
    decay = optim.pop("sched", {"gamma": 1.0})["gamma"]
    cls = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optim.pop("name")]
    optimizer = cls([p for p in model.parameters() if p.requires_grad], **optim, foreach=False)
    model.train()
    if half is not None:
        half.prepare(new_model(cfg, kind=kind))
    losses, gradients, norms = [], [], []
    step = count(1)
    for items in batches:
        if half is None:
            loss = model.compute_losses(kind.collate(items))[0]
            (loss / accumulate).backward()
        else:
            loss = half.backward(model, items)
        losses.append(float(loss))
        if next(step) % accumulate:
            continue
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        trained = [p for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, clip or float("inf"))))
        if skip != len(gradients) - 1:
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= decay
        optimizer.zero_grad()
    return {"losses": losses, "gradients": gradients, "norms": norms, "weights": model.state_dict(), "model": model}


class Half:
    """Forward and backward as several processes with half-precision layers make them, written out for one.

    Layers, rests of encoders and parts of heads compute with copies of the weights in `dtype` and round what comes in.
    Each process's gradients are rounded to `dtype`, and summed up in float32.

    Args:
        dtype: of the copies.
        shares: how many processes read a share each of the batch.
        scale: factor on the loss.
    """

    def __init__(self, dtype, shares, scale=1.0):
        self.dtype, self.shares, self.scale = dtype, shares, scale

    def backward(self, model, items):
        """Add to the gradients of `model` those of a batch; the mean of the processes' losses."""
        half, results = self.model, []
        with torch.no_grad():
            for copy, parameter in zip(half.parameters(), model.parameters(), strict=True):
                copy.copy_(parameter)
        for batch in (collate(items[rank :: self.shares]) for rank in range(self.shares)):
            _, parts, (_, targets, lengths) = half.compute_losses(batch)
            counts = torch.stack(list(half._counts_of(parts, targets, lengths).values())).float()
            results.append((parts, counts))
        mean_count = (sum(counts for _, counts in results) / self.shares).clamp(min=1 / self.shares)
        total = 0.0
        trained = dict(model.named_parameters())
        for parts, counts in results:
            weights = counts / mean_count
            loss = half.total_loss({name: part * weight for (name, part), weight in zip(parts.items(), weights)})
            (loss * self.scale).backward()
            total += float(loss.detach()) / self.shares
            for name, parameter in half.named_parameters():
                if parameter.grad is not None:
                    grad = parameter.grad.float() / self.shares / self.scale
                    trained[name].grad = grad if trained[name].grad is None else trained[name].grad + grad
                    parameter.grad = None
        return total

    def prepare(self, half):
        """Take a model whose parts shall have weights in half precision, and round what they are given."""
        self.model = half.train()
        half.encoder.sync_max_audio_length = False
        for _, encoder in units.encoders(half):
            for module in (*units.layers(encoder), encoder):
                self.round_inputs(module)
        for _, module in units.head_parts(half):
            self.round_inputs(module)

    def round_inputs(self, module):
        """Round a module's weights, and from now on its inputs."""
        for parameter in module.parameters():
            parameter.data = parameter.data.to(self.dtype)
        for name in ("forward", *units.entries(module)):
            setattr(module, name, self.rounding(getattr(module, name)))

    def rounding(self, method):
        """A method that rounds all numbers that it is given."""

        def rounded(value):
            return value.to(self.dtype) if torch.is_tensor(value) and value.is_floating_point() else value

        @functools.wraps(method)
        def call(*args, **kwargs):
            args, kwargs = torch.utils._pytree.tree_map(rounded, (args, kwargs))
            return method(*args, **kwargs)

        return call


def mean_over_processes(values):
    """Mean of each number over all processes."""
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


def everyone(value):
    """The value of each process."""
    values = [None] * WORLD
    dist.all_gather_object(values, value)
    return values


def local_bytes(tensors):
    """Bytes that this process holds of tensors."""
    parts = [one.to_local() if isinstance(one, DTensor) else one for one in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def save(result, path):
    """Save what process 0 found."""
    if RANK == 0:
        torch.save(result, path)
