# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is the diarizer's own in training and evaluation: its loaders, its batches, and the activity loss."""

from __future__ import annotations

from typing import Any

import torch
from nemo.utils import logging
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_sortformer.config import ConfigError, DatasetConfig, DiarizerConfig
from nemo_sortformer.functional.losses import activity_loss
from nemo_sortformer.models.diarizer import build
from nemo_sortformer.models.shared.ranks import data_share
from nemo_sortformer.models.shared.steps import Batch, SortedLabelSteps


class DiarizerSteps(SortedLabelSteps):
    """The training half of :class:`SortformerDiarizer`; it expects the parts that the model has."""

    config: DiarizerConfig
    throughput_name = "audio_seconds_per_second"
    count_name = "speaker_count"

    def _counts_per_unit(self) -> float:
        return self.config.sample_rate

    def _make_loader(self, cfg: Any, *, name: str) -> DataLoader | None:
        config = self._dataset_config(cfg, name)
        if config.source is None:
            logging.warning(f"`model.{name}` names no data, so there is no loader for it.")
            return None
        if config.sample_rate != self.config.sample_rate:
            raise ConfigError(
                f"`model.{name}.sample_rate` must be that of the model, {self.config.sample_rate}, but is "
                f"{config.sample_rate}."
            )
        trainer = self._trainer
        rank, world_size = data_share(trainer, self.config.parallel)
        if world_size > 1 and config.source == "cuts" and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError(
                "`trainer.use_distributed_sampler` must be false with lhotse cuts on several devices: the loader "
                "divides the cuts itself, and Lightning would divide them once more."
            )
        sched = self._cfg.get("optim", {}).get("sched") or {}
        endless = trainer is not None and trainer.max_steps < 0 and sched.get("max_steps") is None
        if name == "train_ds" and config.source == "cuts" and sched and endless:
            raise ConfigError(
                "`trainer.max_steps` must be set with lhotse cuts and a learning rate schedule (`optim.sched`): how "
                "many cuts an epoch has is not known beforehand, so that NeMo cannot work out the schedule's length."
            )
        hops_per_frame = self.hop_samples * self.subsampling * 100 / self.config.sample_rate
        if hops_per_frame != int(hops_per_frame):
            raise ConfigError(f"An output frame must be a multiple of 10 ms, but is {hops_per_frame * 10:g} ms.")
        return self._build_loader(
            config,
            num_slots=self.num_slots,
            subsampling=int(hops_per_frame),
            rank=rank,
            world_size=world_size,
            training=name == "train_ds",
        )

    def _dataset_config(self, cfg: Any, name: str) -> DatasetConfig:
        return build.dataset_config(cfg, name=name)

    def _build_loader(self, config: DatasetConfig, **options: Any) -> DataLoader:
        from nemo_sortformer.data.loaders import build_loader  # here, as it brings in lhotse

        return build_loader(config, **options)

    def compute_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], tuple[Any, Tensor, Tensor]]:
        """Run the model on a batch of audio and weigh its losses; see :class:`SortedLabelSteps`."""
        audio, audio_lengths, targets, target_lengths = batch
        output = self(audio_signal=audio, audio_signal_length=audio_lengths)
        output, targets, lengths = match_frames(output, targets, target_lengths)
        parts = self.part_losses(output, targets, lengths)
        return self.total_loss(parts), parts, (output, targets, lengths)

    def loss_weights(self) -> dict[str, float]:
        """The parts of the loss that are computed, and their weights."""
        activity = self.config.activity
        own = {} if activity is None or activity.weight == 0 else {"activity": activity.weight}
        return super().loss_weights() | own

    def part_losses(self, output: Any, targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The parts of the loss, unweighted, under the names of :meth:`loss_weights`."""
        parts = super().part_losses(output, targets, lengths)
        if "activity" in self.loss_weights():
            parts["activity"] = activity_loss(output.activity_logits, targets, lengths)
        return parts


def match_frames(output: Any, targets: Tensor, target_lengths: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Cut model output and targets to their common frames.

    NeMo's front end gives a frame less than its labels where the audio is no whole number of hops.
    """
    num_frames = min(output.logits.shape[1], targets.shape[1])
    if abs(output.logits.shape[1] - targets.shape[1]) > 2:
        raise ValueError(
            f"The model gives {output.logits.shape[1]} frames for audio with {targets.shape[1]} frames of targets. "
            f"Does `subsampling` of the data equal that of the encoder?"
        )
    cut = output._replace(
        logits=output.logits[:, :num_frames],
        lengths=output.lengths.clamp(max=num_frames),
        layer_logits=[logits[:, :num_frames] for logits in output.layer_logits],
        embeddings=None if output.embeddings is None else output.embeddings[:, :num_frames],
        activity_logits=None if output.activity_logits is None else output.activity_logits[:, :num_frames],
    )
    return cut, targets[:, :num_frames], torch.minimum(cut.lengths, target_lengths)
