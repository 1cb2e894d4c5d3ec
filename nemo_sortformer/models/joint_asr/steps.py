# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is the joint model's own in training and evaluation: texts in its batches, their losses, wrong words."""

from __future__ import annotations

from typing import Any

from nemo.utils import logging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_sortformer.config import DatasetConfig
from nemo_sortformer.config.joint import JointASRConfig
from nemo_sortformer.config.joint_data import JointDatasetConfig
from nemo_sortformer.data.joint_batch import JointBatch, TextBatch
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.losses.sorted_label_cross_entropy import (
    HeadLabels,
    SortedLabelCrossEntropy,
    head_count,
    left_out,
)
from nemo_sortformer.metrics.cpwer import ConcatenatedPermutationWER
from nemo_sortformer.models.diarizer.steps import DiarizerSteps, match_frames
from nemo_sortformer.models.joint_asr import build, decode
from nemo_sortformer.models.joint_asr.output import JointOutput, LossParts
from nemo_sortformer.models.shared.frame_mean import FrameMean
from nemo_sortformer.modules.speaker_kernel import mixed_labels

_WORDS = "cpwer"


class JointSteps(DiarizerSteps):
    """The training half of :class:`SortformerJointASR`; it expects the parts that the model has."""

    config: JointASRConfig
    tokenizers: dict[str, SpeakerTokenizer]
    text_heads: nn.ModuleDict
    head_loss: SortedLabelCrossEntropy
    _told_of_left_out = False

    # Data

    def _dataset_config(self, cfg: Any, name: str) -> JointDatasetConfig:
        return build.dataset_config(cfg, name=name)

    def _build_loader(self, config: DatasetConfig, **options: Any) -> DataLoader:
        from nemo_sortformer.data.joint_loader import build_joint_loader  # here, as it brings in lhotse

        heads = self.config.heads
        return build_joint_loader(
            config,
            tokenizers=self.tokenizers,
            levels={name: head.serialization for name, head in heads.items()},
            fields={name: head.field for name, head in heads.items()},
            **options,
        )

    # Losses

    def compute_losses(self, batch: JointBatch) -> tuple[Tensor, dict[str, Tensor], tuple[Any, Tensor, Tensor]]:
        """Run the encoder once and all heads on it, and weigh their losses; see :class:`SortedLabelSteps`."""
        audio, audio_lengths, targets, target_lengths, texts = batch
        output = self.encode(audio, audio_lengths)
        output, targets, lengths = match_frames(output, targets, target_lengths)
        num_frames = targets.shape[1]
        output = output._replace(states=output.states[:, :num_frames], features=output.features[:, :num_frames])
        labels = self.speaker_labels(output, targets)
        heads = {name: self.text_labels(name, output, labels, texts[name]) for name in self.text_heads}
        output = output._replace(heads=heads)
        parts = self.part_losses(output, targets, lengths)
        self._log_left_out(heads)
        counted = LossParts(parts, {name: head_count(head) for name, head in heads.items()})
        return self.total_loss(parts), counted, (output, targets, lengths)

    def speaker_labels(self, output: JointOutput, targets: Tensor) -> Tensor:
        """Who speaks, as the text heads are told: the true labels or the predicted ones, (batch, frames, slots)."""
        kernel = self.config.speaker_kernel
        predicted = output.probs if kernel.gradient else output.probs.detach()
        if kernel.labels == "mixed" and not self.training:
            return predicted
        step = 0 if self._trainer is None else self._trainer.global_step
        true = targets * output.mask[:, :, None]
        return mixed_labels(true, predicted, kernel.true_share(step))

    def text_labels(self, name: str, output: JointOutput, labels: Tensor, text: TextBatch) -> HeadLabels:
        """What a text head says about a batch, and what it should say."""
        config, head = self.config.heads[name], self.text_heads[name]
        states = self.text_input(name, output, labels)
        if config.kind == "aed":
            logits, tokens, lengths = head(states, output.mask, text.tokens, text.lengths)
            return HeadLabels("categorical", logits, tokens, lengths, label_smoothing=config.label_smoothing)
        frames = output.lengths * head.upsample
        if config.kind == "ctc":
            return HeadLabels("ctc", head(states=states), text.tokens, text.lengths, frames)
        if config.kind == "rnnt":
            logits = head(states, text.tokens, text.lengths)
            return HeadLabels("transducer", logits, text.tokens, text.lengths, frames)
        logits = head(states=states, mask=output.mask, labels=labels)
        frames = frames.repeat_interleave(logits.shape[1])
        return HeadLabels(
            "ctc", logits.flatten(0, 1), text.streams.flatten(0, 1), text.stream_lengths.flatten(), frames
        )

    def head_losses(self, output: JointOutput, targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The losses of the label head and of the text heads, all against labels sorted by arrival."""
        frames = HeadLabels("binary", output.logits, targets, lengths, pos_weight=self.loss.pos_weight)
        return self.head_loss.parts({"sort": frames} | (output.heads or {}))

    def loss_weights(self) -> dict[str, float]:
        """The parts of the loss that are computed, and their weights."""
        return super().loss_weights() | {name: head.weight for name, head in self.config.heads.items()}

    def _counts_of(self, parts: dict[str, Tensor], targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return super()._counts_of(parts, targets, lengths) | getattr(parts, "counts", {})

    def _log_left_out(self, heads: dict[str, HeadLabels]) -> None:
        """Texts with more tokens than frames teach nothing; their share is logged, and told once."""
        if self._trainer is None or not self.training or not self._is_log_step():
            return
        for name, head in heads.items():
            share = left_out(head)
            if share is None:
                continue
            self.log(f"train_{name}_left_out", share)
            if not self._told_of_left_out and float(share) > 0:
                self._told_of_left_out = True
                logging.warning(
                    f"{float(share):.1%} of the texts of this batch have more tokens than `{name}` has frames for "
                    f"them, and are left out. Raise `model.text.{name}.decoder.upsample`, or use a larger vocabulary."
                )

    # Validation and test

    def _evaluation_metrics(self) -> dict[str, nn.Module]:
        metrics = super()._evaluation_metrics()
        for name in self.config.heads:
            metrics[f"loss_{name}"] = FrameMean(empty=0.0)  # of tokens, and there may be none
        return metrics | {name: ConcatenatedPermutationWER() for name in self._word_metrics().values()}

    def _word_metrics(self) -> dict[str, str]:
        """The error rate of each head by its name in the logs; that of the main head is plain `cpwer`."""
        names = list(self.config.heads)
        return {name: f"{_WORDS}_{name}" if name != names[0] else _WORDS for name in names}

    def _update_other_metrics(
        self, metrics: nn.ModuleDict, batch: JointBatch, output: JointOutput, stage: str, batch_idx: int
    ) -> None:
        most = self.config.max_decoded_batches
        if stage == "validation" and most is not None and batch_idx >= most:
            return
        labels = self.speaker_labels(output, batch.targets[:, : output.logits.shape[1]])
        for name, metric_name in self._word_metrics().items():
            words = decode.decode_words(self, name, output, labels)  # type: ignore[arg-type]
            said = [decode.texts_of_slots(one, self.num_slots) for one in words]
            metrics[metric_name].update(decode.true_texts(self.tokenizers[name], batch.texts[name]), said)
