# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is the labeler's own in training and evaluation: its loaders, its batches, and its kinds of labels."""

from __future__ import annotations

from typing import Any

import torch
from nemo.utils import logging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_sortformer.config.labeler import LabelerConfig
from nemo_sortformer.metrics import DiarizationErrorRate
from nemo_sortformer.models.labeler import build
from nemo_sortformer.models.labeler.output import LabelerOutput
from nemo_sortformer.models.shared.ranks import data_share
from nemo_sortformer.models.shared.steps import Batch, LabelColumns, SortedLabelSteps
from nemo_sortformer.modules.label_head import forward_with_losses, has_own_losses

_HEAD_LOSS = "head"


class LabelerSteps(SortedLabelSteps):
    """The training half of :class:`SortformerLabeler`; it expects the parts that the model has."""

    config: LabelerConfig

    def setup_steps(self) -> None:
        """Make what only training and evaluation need, and find the slots of each kind of label."""
        kinds, first = [], 0
        for name, kind in self.config.kinds.items():
            kinds.append(LabelColumns(name, slice(first, first + kind.num_classes), kind.weight))
            first += kind.num_classes
        self._label_columns = tuple(kinds)
        super().setup_steps()

    def label_columns(self) -> tuple[LabelColumns, ...]:
        """The kinds of labels that the model has, the main one first; a single one has the empty name."""
        return self._label_columns

    def _frame_metrics(self) -> dict[str, nn.Module]:
        return super()._frame_metrics() | {"der_as_is": DiarizationErrorRate(as_is=True)}

    def _make_loader(self, cfg: Any, *, name: str) -> DataLoader | None:
        from nemo_sortformer.data.embeddings import build_embedding_loader

        config = build.dataset_config(cfg, name=name)
        if not config.manifest_filepath:
            logging.warning(f"`model.{name}` names no data, so there is no loader for it.")
            return None
        rank, world_size = data_share(self._trainer, self.config.parallel)
        return build_embedding_loader(
            config,
            num_classes=self.num_classes,
            input_dim=self.config.input_dim,
            frame_seconds=config.frame_seconds or self.frame_seconds,
            rank=rank,
            world_size=world_size,
            training=name == "train_ds",
        )

    def compute_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], tuple[Any, Tensor, Tensor]]:
        """Run the model on a batch of embeddings and weigh its losses; see :class:`SortedLabelSteps`.

        Raises:
            ValueError: the targets have not the frames of the embeddings, or not the slots of the model.
        """
        embeddings, lengths, targets, target_lengths = batch
        expected = (*embeddings.shape[:2], self.num_slots)
        if targets.shape != expected:
            raise ValueError(
                f"`targets` must have the batch and frames of the embeddings and the slots of the model, {expected}, "
                f"but has {tuple(targets.shape)}."
            )
        states, mask, layer_logits, vectors = self.encode(embeddings, lengths)
        logits, own = forward_with_losses(self.label_head, states, mask, targets)
        output = LabelerOutput(logits, lengths, layer_logits, vectors)
        lengths = torch.minimum(lengths, target_lengths)
        parts = self.part_losses(output, targets, lengths)
        if own:
            parts[_HEAD_LOSS] = torch.stack(list(own.values())).sum()
            if not self.training:  # such a head may have looked at the labels, which is not what is to be measured
                output = output._replace(logits=self.label_head(states=states, mask=mask))
        return self.total_loss(parts), parts, (output, targets, lengths)

    def loss_weights(self) -> dict[str, float]:
        """The parts of the loss that are computed, and their weights; what a head adds by itself is `head`."""
        return super().loss_weights() | ({_HEAD_LOSS: 1.0} if has_own_losses(self.label_head) else {})
