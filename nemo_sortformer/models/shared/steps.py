# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What every model of ours does in training, validation and test: losses, metrics, and what is logged of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_sortformer.config import ConfigError
from nemo_sortformer.functional.embedding_losses import count_paired
from nemo_sortformer.functional.losses import sorted_label_cross_entropy
from nemo_sortformer.losses import AffinityLoss
from nemo_sortformer.metrics import DiarizationErrorRate, FrameF1, SpeakerCountAccuracy
from nemo_sortformer.models.shared.collar import CollarErrorRate
from nemo_sortformer.models.shared.frame_mean import FrameMean
from nemo_sortformer.models.shared.loader_names import neutral_names
from nemo_sortformer.models.shared.ranks import rank_weights

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Input (batch, samples) or (batch, frames, width), its lengths (batch,), targets (batch, frames, slots), theirs."""
_STAGES = {"validation": "val", "test": "test"}
_COLLAR = "der_collar"


def _alone() -> bool:
    return False


class LossError(ValueError):
    """The loss is not finite, so that training cannot go on."""


class LabelColumns(NamedTuple):
    """The slots of one kind of label."""

    name: str
    """Ends the names of its losses and metrics; empty where the model has one kind only."""
    columns: slice
    """Its columns among the model's logits and targets."""
    weight: float
    """Factor on its losses."""


class SortedLabelSteps:
    """The training half of a model; a mixin in front of `ModelPT`.

    The model has `config` (with `loss`, `affinity`, `inference`, `der_collar`), `loss`, and `frame_seconds`, and says
    how loaders are made and what a batch goes through: `_make_loader`, `compute_losses`.
    """

    config: Any
    throughput_name = "frames_per_second"
    """Name of the logged speed."""
    count_name = "class_count"
    """Name of the share of inputs with the right number of classes."""

    def setup_steps(self) -> None:
        """Make what only training and evaluation need: the affinity loss and the metrics."""
        affinity = self.config.affinity
        self.affinity_loss = None
        if affinity is not None and affinity.weight > 0:
            self.affinity_loss = AffinityLoss(
                scale=affinity.scale, margin=affinity.margin, max_frames=affinity.max_frames
            )
        self._metric_names = (*self._frame_metrics(), _COLLAR)
        self._train_metrics = nn.ModuleDict(self._named_frame_metrics())
        for metric in self._train_metrics.values():
            metric.distributed_available_fn = _alone  # a look at this rank's batch is enough, and costs no waiting
        self._eval_metrics = nn.ModuleDict({stage: nn.ModuleList() for stage in _STAGES})
        self._window_start: float | None = None
        self._window_count: Tensor | None = None

    def label_columns(self) -> tuple[LabelColumns, ...]:
        """The kinds of labels that the model has, the main one first."""
        return (LabelColumns("", slice(None), 1.0),)

    def _counts_per_unit(self) -> float:
        """How many of the counts of a batch's lengths make one unit of `throughput_name`."""
        return 1.0

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
        """The loader of one data source, e.g. `train_ds`; None where the settings name no data."""
        raise TypeError(f"`{type(self).__name__}` must say how its loaders are made.")

    # Losses

    def compute_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], tuple[Any, Tensor, Tensor]]:
        """Run the model on a batch and weigh its losses.

        Returns:
            The loss, its unweighted parts by name, and the model's output with targets and lengths that fit it.
        """
        raise TypeError(f"`{type(self).__name__}` must say what a batch goes through.")

    def loss_weights(self) -> dict[str, float]:
        """The parts of the loss that are computed, and their weights."""
        config = self.config.loss
        given = {"sort": config.sort_weight, "pil": config.pil_weight}
        weights = {
            _named(part, kind): kind.weight * weight
            for kind in self.label_columns()
            for part, weight in given.items()
            if weight > 0
        }
        if config.layer_weight > 0:
            weights["layer"] = config.layer_weight
        if self.affinity_loss is not None:
            weights["affinity"] = self.config.affinity.weight
        return weights

    def part_losses(self, output: Any, targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The parts of the loss, unweighted, under the names of :meth:`loss_weights`.

        What the layers of the state encoder estimate, and what is alike to the affinity loss, is the main kind of
        label.
        """
        parts = self.head_losses(output, targets, lengths)
        main = targets[..., self.label_columns()[0].columns]
        if self.config.loss.layer_weight > 0:
            if not output.layer_logits:
                raise ConfigError(
                    "`model.loss.layer_weight` needs a state encoder whose layers estimate the labels: a "
                    "SortformerEncoder of two layers or more, with `feedback`. Set it to 0, or change the encoder."
                )
            per_layer = [self._layer_loss(logits, main, lengths) for logits in output.layer_logits]
            parts["layer"] = torch.stack(per_layer).mean()
        if self.affinity_loss is not None:
            with self._draw_of_frames():
                parts["affinity"] = self.affinity_loss(embeddings=output.embeddings, labels=main, lengths=lengths)
        return parts

    def head_losses(self, output: Any, targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The parts of the loss at the model's end: of its label head, for each kind of label."""
        parts: dict[str, Tensor] = {}
        for kind in self.label_columns():
            logits, labels = output.logits[..., kind.columns], targets[..., kind.columns]
            parts |= {_named(part, kind): loss for part, loss in self.loss.parts(logits, labels, lengths).items()}
        return parts

    def total_loss(self, parts: dict[str, Tensor]) -> Tensor:
        """Add the parts by their weights."""
        weights = self.loss_weights()
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum()

    def shared_loss(self, parts: dict[str, Tensor], targets: Tensor, lengths: Tensor) -> Tensor:
        """The total of which the mean over processes is the loss of all their batches taken as one.

        Each part is a mean over frames, the affinity loss one over the recordings that have a pair of frames.
        """
        weights = rank_weights(torch.stack(list(self._counts_of(parts, targets, lengths).values())).float())
        return self.total_loss({name: part * weight for (name, part), weight in zip(parts.items(), weights)})

    def _counts_of(self, parts: dict[str, Tensor], targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """How many frames, or recordings, each part of the loss is the mean of."""
        counts = dict.fromkeys(parts, lengths.sum())
        if "affinity" in parts:
            counts["affinity"] = count_paired(targets[..., self.label_columns()[0].columns], lengths)
        return counts

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
        self._count(batch[1])
        if self._is_log_step():
            values: dict[str, Any] = {f"train_loss_{name}": part.detach() for name, part in parts.items()}
            with torch.no_grad():
                self._update_frame_metrics(self._train_metrics, output.probs.detach(), targets, lengths)
            for name, metric in self._train_metrics.items():
                values[f"train_{name}"] = metric.compute()
                metric.reset()
            if self._optimizer is not None:
                values["learning_rate"] = self._optimizer.param_groups[0]["lr"]
            values |= self._throughput()
            self.log_dict(values)
        return {"loss": self.shared_loss(parts, targets, lengths)}

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
            norm = getattr(self.trainer.precision_plugin, "global_norm", None)  # where gradients are divided
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log(
                "grad_norm", torch.nn.utils.get_total_norm(gradients) if norm is None else norm(self.parameters())
            )

    def _is_log_step(self) -> bool:
        every = self.trainer.log_every_n_steps
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _count(self, lengths: Tensor) -> None:
        if self._window_start is None:
            self._window_start, self._window_count = time.perf_counter(), torch.zeros_like(lengths[:1])
        else:  # the batch that opened the window was read and run before the clock started
            self._window_count = self._window_count + lengths.sum()

    def _throughput(self) -> dict[str, float]:
        count = int(self._window_count)  # waits for the GPU, so the clock is read after it
        seconds = time.perf_counter() - self._window_start
        self._window_start = None
        if count == 0:
            return {}
        return {self.throughput_name: count / self._counts_per_unit() / seconds * self.trainer.world_size}

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
        """What is counted over one loader: means over frames by their frames, those over recordings by recordings."""
        metrics: dict[str, nn.Module] = {f"loss_{name}": FrameMean() for name in self.loss_weights()}
        if "loss_affinity" in metrics:
            metrics["loss_affinity"] = FrameMean(empty=0.0)  # of recordings, and there may be none with a pair
        metrics |= self._named_frame_metrics()
        if self.config.der_collar is not None:
            metrics[_COLLAR] = CollarErrorRate(
                collar=self.config.der_collar, frame_seconds=self.frame_seconds, config=self.config.inference
            )
        return metrics

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count one batch of validation data."""
        return self._evaluation_step("validation", batch, dataloader_idx, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count one batch of test data."""
        return self._evaluation_step("test", batch, dataloader_idx, batch_idx)

    def _evaluation_step(self, stage: str, batch: Batch, dataloader_idx: int, batch_idx: int) -> dict[str, Tensor]:
        loss, parts, (output, targets, lengths) = self.compute_losses(batch)
        metrics, counts = self._eval_metrics[stage][dataloader_idx], self._counts_of(parts, targets, lengths)
        for name, part in parts.items():
            metrics[f"loss_{name}"].update(part, counts[name])
        self._update_frame_metrics(metrics, output.probs, targets, lengths)
        self._update_other_metrics(metrics, batch, output, stage, batch_idx)
        return {f"{_STAGES[stage]}_loss": loss}

    def _update_other_metrics(
        self, metrics: nn.ModuleDict, batch: Any, output: Any, stage: str, batch_idx: int
    ) -> None:
        """Count what a model measures beside frames."""

    def multi_validation_epoch_end(self, outputs: list[Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """Sum up one loader: sums over all batches and ranks, divided once. What the steps returned is not read."""
        return self._summary("validation", dataloader_idx)

    def multi_test_epoch_end(self, outputs: list[Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """As :meth:`multi_validation_epoch_end`."""
        return self._summary("test", dataloader_idx)

    def _summary(self, stage: str, dataloader_idx: int) -> dict[str, Any]:
        prefix = _STAGES[stage]
        metrics = self._eval_metrics[stage][dataloader_idx]
        found = {name: metric.compute() for name, metric in metrics.items()}
        loss = self.total_loss({name: found[f"loss_{name}"] for name in self.loss_weights()})
        values = {f"{prefix}_{name}": value for name, value in {"loss": loss, **found}.items()}
        return {f"{prefix}_loss": loss, "log": values}

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

    # Metrics

    def _frame_metrics(self) -> dict[str, nn.Module]:
        return {"der": DiarizationErrorRate(), "f1": FrameF1(), self.count_name: SpeakerCountAccuracy()}

    def _named_frame_metrics(self) -> dict[str, nn.Module]:
        """The metrics over all kinds of labels, and those of each kind where there are several."""
        metrics = self._frame_metrics()
        for kind in self.label_columns():
            if kind.name:
                metrics |= {_named(name, kind): metric for name, metric in self._frame_metrics().items()}
        return metrics

    def _update_frame_metrics(self, metrics: nn.ModuleDict, probs: Tensor, targets: Tensor, lengths: Tensor) -> None:
        for kind in self.label_columns():
            own_probs, own_targets = probs[..., kind.columns], targets[..., kind.columns]
            for name in self._metric_names:
                for named in dict.fromkeys((name, _named(name, kind))):
                    if named in metrics:
                        metrics[named].update(own_probs, own_targets, lengths)


def _named(name: str, kind: LabelColumns) -> str:
    return f"{name}_{kind.name}" if kind.name else name
