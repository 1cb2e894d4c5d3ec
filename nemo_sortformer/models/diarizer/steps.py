# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the diarizer does in training, validation and test: data, losses, metrics, and what is logged of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from nemo.utils import logging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_sortformer.config import ConfigError, DiarizerConfig
from nemo_sortformer.functional.losses import activity_loss, sorted_label_cross_entropy
from nemo_sortformer.losses import AffinityLoss
from nemo_sortformer.metrics import DiarizationErrorRate, FrameF1, SpeakerCountAccuracy
from nemo_sortformer.models.diarizer import build
from nemo_sortformer.models.diarizer.collar import CollarErrorRate
from nemo_sortformer.models.diarizer.frame_mean import FrameMean
from nemo_sortformer.models.diarizer.loader_names import neutral_names

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Audio (batch, samples), its lengths (batch,), targets (batch, frames, slots), their lengths (batch,)."""
_STAGES = {"validation": "val", "test": "test"}


class LossError(ValueError):
    """The loss is not finite, so that training cannot go on."""


class DiarizerSteps:
    """The training half of :class:`SortformerDiarizer`; it expects the parts that the model has."""

    config: DiarizerConfig

    def setup_steps(self) -> None:
        """Make what only training and evaluation need: the affinity loss and the metrics."""
        affinity = self.config.affinity
        self.affinity_loss = None
        if affinity is not None and affinity.weight > 0:
            self.affinity_loss = AffinityLoss(
                scale=affinity.scale, margin=affinity.margin, max_frames=affinity.max_frames
            )
        self._train_metrics = nn.ModuleDict(_frame_metrics())
        for metric in self._train_metrics.values():
            metric.sync_on_compute = False  # a look at this rank's batch is enough, and costs no waiting
        self._eval_metrics = nn.ModuleDict({stage: nn.ModuleList() for stage in _STAGES})
        self._window_start: float | None = None
        self._window_samples: Tensor | None = None

    # Data

    def setup_training_data(self, train_data_config: Any) -> None:
        """Make the loader of the training data."""
        self._update_dataset_config(dataset_name="train", config=train_data_config)
        self._train_dl = self._make_loader(train_data_config, name="train_ds")

    def setup_multiple_validation_data(self, val_data_config: Any) -> None:
        """Make the loaders of validation data, one per manifest; :mod:`.loader_names` says what they are called."""
        self._update_dataset_config(dataset_name="validation", config=val_data_config)
        with neutral_names(self._cfg.get("validation_ds")) as names:
            super().setup_multiple_validation_data(None)
        self._validation_names = names or self._validation_names

    def setup_multiple_test_data(self, test_data_config: Any) -> None:
        """As :meth:`setup_multiple_validation_data`, for test data."""
        self._update_dataset_config(dataset_name="test", config=test_data_config)
        with neutral_names(self._cfg.get("test_ds")) as names:
            super().setup_multiple_test_data(None)
        self._test_names = names or self._test_names

    def setup_validation_data(self, val_data_config: Any) -> None:
        """Make one loader of validation data; NeMo calls this once per manifest."""
        self._update_dataset_config(dataset_name="validation", config=val_data_config)
        self._validation_dl = self._make_loader(val_data_config, name="validation_ds")

    def setup_test_data(self, test_data_config: Any) -> None:
        """Make one loader of test data; NeMo calls this once per manifest."""
        self._update_dataset_config(dataset_name="test", config=test_data_config)
        self._test_dl = self._make_loader(test_data_config, name="test_ds")

    def _make_loader(self, cfg: Any, *, name: str) -> DataLoader | None:
        from nemo_sortformer.data.loaders import build_loader  # here, as it brings in lhotse

        config = build.dataset_config(cfg, name=name)
        if config.source is None:
            logging.warning(f"`model.{name}` names no data, so there is no loader for it.")
            return None
        if config.sample_rate != self.config.sample_rate:
            raise ConfigError(
                f"`model.{name}.sample_rate` must be that of the model, {self.config.sample_rate}, but is "
                f"{config.sample_rate}."
            )
        trainer = self._trainer
        world_size = 1 if trainer is None else trainer.world_size
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
        return build_loader(
            config,
            num_slots=self.num_slots,
            subsampling=int(hops_per_frame),
            rank=0 if trainer is None else trainer.global_rank,
            world_size=world_size,
            training=name == "train_ds",
        )

    # Losses

    def compute_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Run the model on a batch and weigh its losses.

        Returns:
            The loss, its unweighted parts by name, and the model's output cut to the frames of the targets.
        """
        audio, audio_lengths, targets, target_lengths = batch
        output = self(audio_signal=audio, audio_signal_length=audio_lengths)
        output, targets, lengths = _match_frames(output, targets, target_lengths)
        parts = self.loss.parts(output.logits, targets, lengths)
        loss = self.loss.total(parts)
        if self.config.loss.layer_weight:
            if not output.layer_logits:
                raise ConfigError(
                    "`model.loss.layer_weight` needs a state encoder whose layers estimate the labels: a "
                    "SortformerEncoder of two layers or more, with `feedback`. Set it to 0, or change the encoder."
                )
            per_layer = [self._layer_loss(logits, targets, lengths) for logits in output.layer_logits]
            parts["layer"] = torch.stack(per_layer).mean()
            loss = loss + self.config.loss.layer_weight * parts["layer"]
        if self.affinity_loss is not None:
            with self._draw_of_frames():
                parts["affinity"] = self.affinity_loss(embeddings=output.embeddings, labels=targets, lengths=lengths)
            loss = loss + self.config.affinity.weight * parts["affinity"]
        if self.config.activity is not None and self.config.activity.weight > 0:
            parts["activity"] = activity_loss(output.activity_logits, targets, lengths)
            loss = loss + self.config.activity.weight * parts["activity"]
        return loss, parts, (output, targets, lengths)

    @contextmanager
    def _draw_of_frames(self) -> Iterator[None]:
        """Let the affinity loss draw its frames at random in training, and the same ones at every evaluation."""
        if self.training:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            yield

    def _layer_loss(self, logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        """The estimates of one layer, whose columns are in order of arrival, against the sorted labels."""
        return sorted_label_cross_entropy(
            logits, targets, lengths, tie_tolerance=self.loss.tie_tolerance, pos_weight=self.loss.pos_weight
        )

    # Training

    def on_train_epoch_start(self) -> None:
        """Start the clock of the throughput anew, as validation came between."""
        self._window_start = None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step; each part of the loss is logged by itself, the metrics now and then.

        Raises:
            LossError: the loss is not finite. With `16-mixed` the step is left out instead, by the gradient scaler.
        """
        loss, parts, (output, targets, lengths) = self.compute_losses(batch)
        self._check_finite(loss, parts)
        self.log("train_loss", loss.detach(), prog_bar=True)
        self._count_samples(batch[1])
        if self._is_log_step():
            values: dict[str, Any] = {f"train_loss_{name}": part.detach() for name, part in parts.items()}
            with torch.no_grad():
                probs = output.probs.detach()
                for name, metric in self._train_metrics.items():
                    values[f"train_{name}"] = metric(probs, targets, lengths)
                    metric.reset()
            if self._optimizer is not None:
                values["learning_rate"] = self._optimizer.param_groups[0]["lr"]
            values |= self._throughput()
            self.log_dict(values)
        return {"loss": loss}

    def _check_finite(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """One more step on a loss of NaN, and all weights would be NaN too.

        To look at the loss is to wait for the GPU. Where nothing else in a step waits (the assignment of the
        permutation-invariant loss does), only the steps that are logged are looked at: NaN stays until then.
        """
        waits_anyway = not loss.is_cuda or self.config.loss.pil_weight > 0 or self._is_log_step()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if waits_anyway and scaler is None and not bool(torch.isfinite(loss.detach())):
            values = ", ".join(f"{name} {float(part.detach()):g}" for name, part in parts.items())
            raise LossError(
                f"The loss of step {self.trainer.global_step} is not finite ({values}). Lower `optim.lr`, lengthen "
                "its warm-up, or set `trainer.gradient_clip_val`; the same command resumes from the last checkpoint."
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient, before it is clipped."""
        if self._is_log_step():
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("grad_norm", torch.nn.utils.get_total_norm(gradients))

    def _is_log_step(self) -> bool:
        every = self.trainer.log_every_n_steps
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _count_samples(self, audio_lengths: Tensor) -> None:
        if self._window_start is None:
            self._window_start, self._window_samples = time.perf_counter(), torch.zeros_like(audio_lengths[:1])
        else:  # the batch that opened the window was read and run before the clock started
            self._window_samples = self._window_samples + audio_lengths.sum()

    def _throughput(self) -> dict[str, float]:
        samples = int(self._window_samples)  # waits for the GPU, so the clock is read after it
        seconds = time.perf_counter() - self._window_start
        self._window_start = None
        if samples == 0:
            return {}
        return {"audio_seconds_per_second": samples / self.config.sample_rate / seconds * self.trainer.world_size}

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        """Start counting anew, for each loader by itself."""
        self._start_evaluation("validation", len(self.trainer.num_val_batches))

    def on_test_epoch_start(self) -> None:
        """Start counting anew, for each loader by itself."""
        self._start_evaluation("test", len(self.trainer.num_test_batches))

    def _start_evaluation(self, stage: str, num_loaders: int) -> None:
        metrics = nn.ModuleList(nn.ModuleDict(self._evaluation_metrics()) for _ in range(num_loaders))
        self._eval_metrics[stage] = metrics.to(self.device)

    def _evaluation_metrics(self) -> dict[str, nn.Module]:
        """What is counted over one loader. The losses are means over frames, so frames are their weights."""
        losses = {
            "loss": True,
            "loss_sort": self.config.loss.sort_weight > 0,
            "loss_pil": self.config.loss.pil_weight > 0,
            "loss_layer": self.config.loss.layer_weight > 0,
            "loss_affinity": self.affinity_loss is not None,
            "loss_activity": self.config.activity is not None and self.config.activity.weight > 0,
        }
        metrics: dict[str, nn.Module] = {name: FrameMean() for name, is_computed in losses.items() if is_computed}
        metrics |= _frame_metrics()
        if self.config.der_collar is not None:
            metrics["der_collar"] = CollarErrorRate(
                collar=self.config.der_collar, frame_seconds=self.frame_seconds, config=self.config.inference
            )
        return metrics

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count one batch of validation data."""
        return self._evaluation_step("validation", batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count one batch of test data."""
        return self._evaluation_step("test", batch, dataloader_idx)

    def _evaluation_step(self, stage: str, batch: Batch, dataloader_idx: int) -> dict[str, Tensor]:
        loss, parts, (output, targets, lengths) = self.compute_losses(batch)
        probs, num_frames = output.probs, lengths.sum()
        for name, metric in self._eval_metrics[stage][dataloader_idx].items():
            if name == "loss":
                metric.update(loss, num_frames)
            elif name.startswith("loss_"):
                metric.update(parts[name.removeprefix("loss_")], num_frames)
            else:
                metric.update(probs, targets, lengths)
        return {f"{_STAGES[stage]}_loss": loss}

    def multi_validation_epoch_end(self, outputs: list[Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """Sum up one loader: sums over all batches and ranks, divided once. What the steps returned is not read."""
        return self._summary("validation", dataloader_idx)

    def multi_test_epoch_end(self, outputs: list[Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """As :meth:`multi_validation_epoch_end`."""
        return self._summary("test", dataloader_idx)

    def _summary(self, stage: str, dataloader_idx: int) -> dict[str, Any]:
        prefix = _STAGES[stage]
        metrics = self._eval_metrics[stage][dataloader_idx]
        values = {f"{prefix}_{name}": metric.compute() for name, metric in metrics.items()}
        return {f"{prefix}_loss": values[f"{prefix}_loss"], "log": values}

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log all loaders. Every rank comes here, also one without a batch, as the ranks add up their counts."""
        names = getattr(self, "_validation_names", None)
        return self._log_summaries("validation", names, getattr(self, "_val_dl_idx", 0))

    def on_test_epoch_end(self) -> dict[str, Any]:
        """As :meth:`on_validation_epoch_end`."""
        return self._log_summaries("test", getattr(self, "_test_names", None), getattr(self, "_test_dl_idx", 0))

    def _log_summaries(self, stage: str, names: Sequence[str] | None, main_index: int) -> dict[str, Any]:
        """Log each loader under its name, and the main (or only) one under plain names as well, as NeMo does."""
        summarize = self.multi_validation_epoch_end if stage == "validation" else self.multi_test_epoch_end
        summaries = [summarize([], dataloader_idx=index)["log"] for index in range(len(self._eval_metrics[stage]))]
        if not summaries:
            return {}
        values: dict[str, Any] = dict(summaries[max(main_index, 0)])
        if len(summaries) > 1:
            for index, summary in enumerate(summaries):
                prefix = names[index] if names else f"{_STAGES[stage]}_{index}_"
                values |= {prefix + name: value for name, value in summary.items()}
        self.log_dict(values, on_epoch=True)
        self._eval_metrics[stage] = nn.ModuleList()
        return values


def _frame_metrics() -> dict[str, nn.Module]:
    return {"der": DiarizationErrorRate(), "f1": FrameF1(), "speaker_count": SpeakerCountAccuracy()}


def _match_frames(output: Any, targets: Tensor, target_lengths: Tensor) -> tuple[Any, Tensor, Tensor]:
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
