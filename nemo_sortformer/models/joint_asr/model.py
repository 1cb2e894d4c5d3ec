# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A model that says who said what, when: a diarizer whose encoder also feeds text heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from nemo.core.classes.common import PretrainedModelInfo
from nemo.utils import logging, model_utils
from omegaconf import DictConfig
from torch import Tensor

from nemo_sortformer.config import ConfigError
from nemo_sortformer.config.joint import JointASRConfig
from nemo_sortformer.functional.serialized import SpokenWord
from nemo_sortformer.losses.sorted_label_cross_entropy import SortedLabelCrossEntropy
from nemo_sortformer.models.diarizer.build import is_nemo_config
from nemo_sortformer.models.diarizer.model import SortformerDiarizer
from nemo_sortformer.models.joint_asr import build, decode, halves
from nemo_sortformer.models.joint_asr.nemo_decoders import init_text_head
from nemo_sortformer.models.joint_asr.output import JointOutput
from nemo_sortformer.models.joint_asr.steps import JointSteps
from nemo_sortformer.models.joint_asr.tokenizer_files import build_tokenizer, kept_tokenizers
from nemo_sortformer.modules.padding import clear_padding

if TYPE_CHECKING:
    from nemo_sortformer.inference.transcript import Transcript


class SortformerJointASR(JointSteps, SortformerDiarizer):
    """A diarizer with one text head or more on the same encoder; slot k of the labels is speaker k of the text.

    It is a diarizer in every respect: `diarize`, `stream`, losses and metrics on labels, loaders and files are those
    of its base class, and give the same numbers as its diarization half by itself. The labels of a batch are sorted by
    arrival once, in the data, and the speaker tags of the text use the same numbers, so that one loss
    (:class:`SortedLabelCrossEntropy`) trains all heads, and none of them needs to know of the others.

    Args:
        cfg: the settings under `model:`, see :class:`nemo_sortformer.config.joint.JointASRConfig`.
        trainer: the Lightning trainer, if the model is to be trained.

    Raises:
        ConfigError: a setting is unknown, missing or wrong, or a file of a tokenizer is missing.
    """

    model_kind = "joint model of diarization and speech recognition"
    readable_targets = ()
    hint_for_other_kinds = "; to start from its weights, use `init_from_nemo_model`"
    config: JointASRConfig

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None) -> None:
        cfg = model_utils.convert_model_config_to_dict_config(cfg)
        if is_nemo_config(cfg):
            raise ConfigError(
                "The settings of a joint model must name the modules of this package, but `transformer_encoder` or "
                "`sortformer_modules` names NeMo's. Write `nemo_sortformer.modules.TransformerStateEncoder`, or leave "
                "out the `_target_` of `sortformer_modules`."
            )
        super().__init__(cfg=cfg, trainer=trainer)
        config = self.config
        encoder_width = int(config.encoder.get("d_model", 0)) or int(self.encoder.d_model)
        widths = {"states": int(self.transformer_encoder.hidden_size), "acoustic": encoder_width}
        self.text_heads = build.build_text_heads(config, self.tokenizers, widths)
        self.speaker_kernels = build.build_kernels(config, widths)
        weights = {"sort": config.loss.sort_weight} | {name: head.weight for name, head in config.heads.items()}
        self.head_loss = SortedLabelCrossEntropy(weights)
        if trainer is not None and not self._is_model_being_restored():
            for name, head in config.heads.items():
                if head.init_from:
                    report = init_text_head(self.text_heads[name], head.kind, self.tokenizers[name], head.init_from)
                    logging.info(f"`{name}`: {report}")

    def _typed_config(self, cfg: DictConfig) -> JointASRConfig:
        return build.typed_config(cfg)

    def _prepare_data(self) -> None:
        self.tokenizers = {
            name: build_tokenizer(self, name, head.tokenizer, num_speakers=self.num_slots)
            for name, head in self.config.heads.items()
        }

    def encode(self, audio_signal: Tensor, audio_signal_length: Tensor) -> JointOutput:
        """Run what all heads share, and the label head; arguments as in :meth:`forward`.

        The logits are those of :meth:`forward`.
        """
        mel, mel_lengths = self.masked_mel_features(audio_signal, audio_signal_length)
        return self.encode_features(*self.encoder(audio_signal=mel, length=mel_lengths))

    def encode_features(self, features: Tensor, lengths: Tensor) -> JointOutput:
        """As :meth:`encode`, from what the acoustic encoder says: (batch, width, frames), and valid frames."""
        output, states = self.forward_states(features, lengths)
        encoded = JointOutput(*output, states=states, features=features.transpose(1, 2))
        return encoded._replace(features=clear_padding(encoded.features, encoded.mask))

    def text_input(self, name: str, output: JointOutput, labels: Tensor) -> Tensor:
        """What a text head reads, shape (batch, frames, width), with the kernels of those who speak.

        Args:
            name: of the text head.
            output: of :meth:`encode`.
            labels: activity in [0, 1], shape (batch, frames, slots), zero past each length.
        """
        read = build.reads(self.config, self.config.heads[name])
        states = output.states if read == "states" else output.features
        if read in self.speaker_kernels:
            states = self.speaker_kernels[read](states=states, labels=labels)
        return clear_padding(states, output.mask)

    @torch.no_grad()
    def write_down(
        self,
        audio_signal: Tensor,
        audio_signal_length: Tensor,
        *,
        head: str | None = None,
        labels: Tensor | None = None,
    ) -> tuple[JointOutput, list[list[SpokenWord]]]:
        """Say who says what in a batch; the model must be in evaluation mode.

        Args:
            audio_signal: at `sample_rate`, shape (batch, samples).
            audio_signal_length: valid samples per recording, shape (batch,).
            head: which text head; the first one where None.
            labels: who speaks, if that is known better than the label head knows it, in order of arrival, in [0, 1],
                shape (batch, frames, slots).

        Returns:
            What is said of the speakers, and of each recording the words, by start; a slot that never speaks by its
            labels has none.

        Raises:
            ConfigError: there is no such head.
        """
        output = self.encode(audio_signal, audio_signal_length)
        return output, self.write_encoded(output, head=head, labels=labels)

    @torch.no_grad()
    def write_encoded(
        self, output: JointOutput, *, head: str | None = None, labels: Tensor | None = None
    ) -> list[list[SpokenWord]]:
        """The words of a batch that is encoded already; arguments and words as in :meth:`write_down`.

        Raises:
            ConfigError: there is no such head.
        """
        name = self.head_name(head)
        who = output.probs if labels is None else _fitted(labels, output) * output.mask[:, :, None]
        return decode.decode_words(self, name, output, who)

    def transcribe_sessions(self, audio: Any, **options: Any) -> list[Transcript]:
        """Say who said what, when; see :func:`nemo_sortformer.inference.transcribe_joint.transcribe_sessions`.

        Args:
            audio: a file, a folder, a manifest, samples, or a list of these.
            options: `sample_rate` (of samples), `diarizations`, `head`, `batch_size`, `max_seconds`, and others.
        """
        from nemo_sortformer.inference.transcribe_joint import transcribe_sessions  # here, as inference stands above

        return transcribe_sessions(self, audio, **options)

    def save_diarizer(self, path: str) -> None:
        """Write the diarization half to a .nemo file of a `SortformerDiarizer`, which gives the same numbers."""
        halves.diarizer_half(self).save_to(path)

    def save_nemo_asr(self, path: str, head: str | None = None) -> None:
        """Write the encoder and one text head to a .nemo file of NeMo's own class, where it has such a model.

        Args:
            path: of the file.
            head: which text head, of the kind `ctc` or `rnnt`; the first one where None.

        Raises:
            ConfigError: NeMo has no class of this architecture; the message says why.
        """
        name = self.head_name(head)
        halves.save_nemo_asr(self, path, name)

    def save_to(self, save_path: str) -> None:
        """As in NeMo; the file that the model came from may be gone."""
        with kept_tokenizers(self):
            super().save_to(save_path)

    def head_name(self, head: str | None) -> str:
        """The name of a text head; that of the first one where None.

        Raises:
            ConfigError: there is no such head.
        """
        name = head or next(iter(self.config.heads))
        if name not in self.config.heads:
            raise ConfigError(f"`head` must be one of {', '.join(self.config.heads)}, but is {name!r}.")
        return name

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """None is published."""
        return []


def _fitted(labels: Tensor, output: JointOutput) -> Tensor:
    """Labels with as many frames as the model's output: the front end may give one more or less."""
    missing = output.logits.shape[1] - labels.shape[1]
    return torch.nn.functional.pad(labels, (0, 0, 0, missing))  # a negative number cuts
