# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The Sortformer diarizer: audio in, a speech probability per frame and speaker out, in order of arrival."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from nemo.core.classes.common import PretrainedModelInfo
from nemo.core.neural_types import AudioSignal, LengthsType, LogitsType, NeuralType
from nemo.utils import logging, model_utils
from omegaconf import DictConfig
from torch import Tensor

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import DiarizerConfig
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.models.diarizer import build
from nemo_sortformer.models.diarizer.level import set_level
from nemo_sortformer.models.diarizer.steps import DiarizerSteps
from nemo_sortformer.models.shared.nemo_files import NemoFiles
from nemo_sortformer.models.shared.settings import set_aside_data, set_target, with_data

if TYPE_CHECKING:
    from nemo_sortformer.inference.stream import StreamUpdate

build.register_parts()

_PUBLISHED = ("diar_sortformer_4spk-v1", "diar_streaming_sortformer_4spk-v2", "diar_streaming_sortformer_4spk-v2.1")


class DiarizerOutput(NamedTuple):
    """What the model says about a batch."""

    logits: Tensor
    """Speech scores before the sigmoid, shape (batch, frames, slots); slot k is for the k-th speaker to arrive."""
    lengths: Tensor
    """Valid frames per recording, shape (batch,)."""
    layer_logits: list[Tensor]
    """The label estimates inside the state encoder, each as `logits`; none for a Transformer."""
    embeddings: Tensor | None
    """Unit vectors, near for frames of one speaker, shape (batch, frames, dim); None without an affinity head."""
    activity_logits: Tensor | None = None
    """Scores of at least one and at least two speakers, shape (batch, frames, 2); None without an activity head."""

    @property
    def probs(self) -> Tensor:
        """Speech probabilities, shape (batch, frames, slots), zero past each length."""
        mask = lengths_to_mask(self.lengths, self.logits.shape[1])
        return torch.sigmoid(self.logits) * mask[:, :, None]


class SortformerDiarizer(DiarizerSteps, NemoFiles, ModelPT):
    """Acoustic encoder, state encoder, and a head with one slot per speaker, in order of arrival.

    The attributes and weights are named as in NeMo's `SortformerEncLabelModel`, whose offline .nemo files restore here
    and give the same probabilities; saved again they name this class.

    Args:
        cfg: the settings under `model:`, see :class:`nemo_sortformer.config.DiarizerConfig`, or those of a NeMo
            `SortformerEncLabelModel`.
        trainer: the Lightning trainer, if the model is to be trained.

    Raises:
        ConfigError: a setting is unknown, missing or wrong.
    """

    model_kind = "Sortformer diarizer"
    readable_targets = (build.NEMO_DIARIZER,)
    hint_for_other_kinds = "; to start from its acoustic encoder, use `model.init_encoder_from`"

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None) -> None:
        cfg = model_utils.convert_model_config_to_dict_config(cfg)
        own_name = f"{type(self).__module__}.{type(self).__qualname__}"
        cfg = build.translate(cfg, target=own_name) if build.is_nemo_config(cfg) else set_target(cfg, own_name)
        config = self._typed_config(cfg)
        parts = build.build_parts(config)  # first, as the loaders, which NeMo makes next, need the frame rate
        self.config = config
        self.hop_samples, self.subsampling = parts.hop_samples, parts.subsampling
        self._prepare_data()
        set_aside = set_aside_data(cfg) if self._is_model_being_restored() else {}
        super().__init__(cfg=cfg, trainer=trainer)
        if set_aside:
            self.cfg = with_data(self._cfg, set_aside)
        self.preprocessor = parts.preprocessor
        self.spec_augmentation = parts.spec_augmentation
        self.encoder = parts.encoder
        self.sortformer_modules = parts.sortformer_modules
        self.transformer_encoder = parts.transformer_encoder
        self.affinity_head = parts.affinity_head
        self.activity_head = parts.activity_head
        self.loss = parts.loss
        self.setup_steps()
        if config.init_encoder_from and trainer is not None and not self._is_model_being_restored():
            self.maybe_init_from_nemo_encoder(config.init_encoder_from)

    def _typed_config(self, cfg: DictConfig) -> DiarizerConfig:
        """Check the settings; a model with more of them than the diarizer says so here."""
        return build.typed_config(cfg)

    def _prepare_data(self) -> None:
        """Make what loaders need beside the frame rate; they are made next."""

    @property
    def num_slots(self) -> int:
        """Largest number of speakers that the model tells apart in one recording."""
        return self.config.max_num_of_spks

    @property
    def frame_seconds(self) -> float:
        """Seconds from one output frame to the next."""
        return self.hop_samples * self.subsampling / self.config.sample_rate

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Types of the arguments of :meth:`forward`."""
        return {
            "audio_signal": NeuralType(("B", "T"), AudioSignal()),
            "audio_signal_length": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Type of the main result of :meth:`forward`."""
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}

    def forward(self, audio_signal: Tensor, audio_signal_length: Tensor) -> DiarizerOutput:
        """Diarize a batch; what is said of a recording does not depend on the others.

        Args:
            audio_signal: at `sample_rate`, any level, shape (batch, samples).
            audio_signal_length: valid samples per recording, shape (batch,).
        """
        return self.forward_features(*self.masked_mel_features(audio_signal, audio_signal_length))

    def masked_mel_features(self, audio_signal: Tensor, audio_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`mel_features`, with the masking that training has."""
        mel, mel_lengths = self.mel_features(audio_signal, audio_signal_length)
        if self.spec_augmentation is not None and self.training:
            mel = self.spec_augmentation(input_spec=mel, length=mel_lengths)
        return mel, mel_lengths

    def mel_features(self, audio_signal: Tensor, audio_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Set the level of each recording and turn it into mel features, arguments as in :meth:`forward`.

        Returns:
            Features, shape (batch, bands, hops), and the valid hops per recording, shape (batch,).
        """
        audio = set_level(audio_signal, audio_signal_length, self.config.level)
        mel, mel_lengths = self.preprocessor(input_signal=audio, length=audio_signal_length)
        mel_lengths = mel_lengths.clamp(min=1)  # less than one hop of audio still is a frame
        # the preprocessor rounds up to a multiple of 16
        return mel[:, :, : max(1, audio.shape[1] // self.hop_samples)], mel_lengths

    def forward_features(self, mel: Tensor, mel_lengths: Tensor) -> DiarizerOutput:
        """The network behind the mel features: they may be a part of a longer recording's, normalized as a whole."""
        features, lengths = self.encoder(audio_signal=mel, length=mel_lengths)
        return self.forward_encoded(features, lengths)

    def forward_encoded(self, features: Tensor, lengths: Tensor) -> DiarizerOutput:
        """What stands behind the acoustic encoder: its output (batch, width, frames) and valid frames (batch,)."""
        return self.forward_states(features, lengths)[0]

    def forward_states(self, features: Tensor, lengths: Tensor) -> tuple[DiarizerOutput, Tensor]:
        """As :meth:`forward_encoded`, and the states of the state encoder, shape (batch, frames, hidden_size)."""
        features = features.transpose(1, 2)
        mask = lengths_to_mask(lengths, features.shape[1])
        embeddings = None if self.affinity_head is None else self.affinity_head(states=features)
        given = {"embeddings": embeddings} if getattr(self.transformer_encoder, "affinity_layers", 0) else {}
        states, layer_logits = self.transformer_encoder.forward_with_labels(
            self.sortformer_modules.project(features), mask, **given
        )
        activity = None if self.activity_head is None else self.activity_head(states=states)
        logits = self.sortformer_modules(states=states)
        return DiarizerOutput(logits, lengths, layer_logits, embeddings, activity), states

    def diarize(
        self,
        audio: Any,
        sample_rate: int | None = None,
        batch_size: int = 1,
        include_tensor_outputs: bool = False,
        postprocessing_yaml: str | None = None,
        num_workers: int = 0,
        verbose: bool = True,
        override_config: Any = None,
    ) -> list[list[str]] | tuple[list[list[str]], list[Tensor]]:
        """Say who speaks when, with NeMo's arguments and in NeMo's form.

        For a richer result see :func:`nemo_sortformer.diarize_files`.

        Args:
            audio: a path, a list of paths, a manifest (`.json`, `.jsonl`), or one or more NumPy arrays.
            sample_rate: of the arrays, in Hz; must be given with them.
            batch_size: recordings at a time.
            include_tensor_outputs: also return the probabilities.
            postprocessing_yaml: a NeMo post-processing YAML; by default the settings that the model carries.
            num_workers: processes that read audio.
            verbose: show a progress bar.
            override_config: NeMo's `DiarizeConfig`, in place of the arguments above.

        Returns:
            For each recording a list of "start end speaker_k", in seconds; with `include_tensor_outputs` a pair of
            that and a list of tensors (1, frames, slots).
        """
        from nemo_sortformer.inference.diarize import diarize_to_strings  # here, as inference stands above models

        return diarize_to_strings(
            self,
            audio,
            sample_rate=sample_rate,
            batch_size=batch_size,
            include_tensor_outputs=include_tensor_outputs,
            postprocessing_yaml=postprocessing_yaml,
            num_workers=num_workers,
            verbose=verbose,
            override_config=override_config,
        )

    def stream(self, chunks: Any, **options: Any) -> Iterator[StreamUpdate]:
        """Say who speaks while the audio comes in; see :func:`nemo_sortformer.inference.stream.stream`.

        Args:
            chunks: pieces of any length, as arrays, tensors or bytes of 16-bit PCM; or the path of an audio file.
            options: `sample_rate`, `latency` (``30.4s``, ``10s``, ``1.04s``, ``0.32s`` or settings), `precision`
                (``float32``, ``bfloat16``, ``int8``), and others.
        """
        from nemo_sortformer.inference.stream import stream  # here, as inference stands above models

        return stream(self, chunks, **options)

    # Files

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """NVIDIA's published diarizers; :meth:`from_pretrained` takes the names with or without ``nvidia/``."""
        return [
            PretrainedModelInfo(
                pretrained_model_name=f"nvidia/{name}",
                description=f"See https://huggingface.co/nvidia/{name}",
                location=f"https://huggingface.co/nvidia/{name}",
            )
            for name in _PUBLISHED
        ]

    @classmethod
    def from_pretrained(cls, model_name: str, *args: Any, **kwargs: Any) -> Any:
        """Download and restore a published model; arguments as in NeMo."""
        if model_name in _PUBLISHED:  # NeMo's list has a web page for it, where the file should be
            model_name = f"nvidia/{model_name}"
        return ModelPT.from_pretrained.__func__(cls, model_name, *args, **kwargs)

    def maybe_init_from_nemo_encoder(self, path: str | None) -> nemo_bridge.LoadReport | None:
        """Start the acoustic encoder from that of any NeMo .nemo file; None does nothing.

        Raises:
            NemoFileError: its mel front end or its sizes are not those of this model.
        """
        if not path:
            return None
        own = {"preprocessor": self.config.preprocessor, "encoder": self.config.encoder}  # defaults filled in
        report = nemo_bridge.load_encoder(self, own, path)
        logging.info(str(report))
        return report

    def _starts_in_part(self, target: str, path: str) -> bool:
        """A file of another kind of model gives its acoustic encoder."""
        if target == build.NEMO_DIARIZER or target.startswith(nemo_bridge.PREFIX):
            return False
        self.maybe_init_from_nemo_encoder(path)
        return True
