# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labeler: any sequence of embeddings in, a probability per frame and class out, classes in order of arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from nemo.core.classes.common import PretrainedModelInfo
from nemo.core.neural_types import EncodedRepresentation, LengthsType, LogitsType, NeuralType
from nemo.utils import model_utils
from omegaconf import DictConfig
from torch import Tensor

from nemo_sortformer import nemo_bridge
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.models.labeler import build
from nemo_sortformer.models.labeler.output import LabelerOutput
from nemo_sortformer.models.labeler.steps import LabelerSteps
from nemo_sortformer.models.shared.nemo_files import NemoFiles
from nemo_sortformer.models.shared.settings import set_aside_data, set_target, with_data
from nemo_sortformer.modules.padding import clear_padding

if TYPE_CHECKING:
    from nemo_sortformer.inference.labeling import Labeling

nemo_bridge.register()


class SortformerLabeler(LabelerSteps, NemoFiles, ModelPT):
    """State encoder and label heads on embeddings; one slot per class, in order of arrival.

    The classes need not be those of the training data: a model that learnt to tell some apart labels others too.

    Args:
        cfg: the settings under `model:`, see :class:`nemo_sortformer.config.LabelerConfig`.
        trainer: the Lightning trainer, if the model is to be trained.

    Raises:
        ConfigError: a setting is unknown, missing or wrong.
    """

    model_kind = "Sortformer labeler"

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None) -> None:
        cfg = model_utils.convert_model_config_to_dict_config(cfg)
        cfg = set_target(cfg, f"{type(self).__module__}.{type(self).__qualname__}")
        config = build.typed_config(cfg)
        parts = build.build_parts(config)
        self.config = config
        self.num_classes = {name: kind.num_classes for name, kind in config.kinds.items()}
        """Slots per kind of label; a single kind has the empty name."""
        self.num_slots = sum(self.num_classes.values())
        """Slots of all kinds of labels together."""
        set_aside = set_aside_data(cfg) if self._is_model_being_restored() else {}
        super().__init__(cfg=cfg, trainer=trainer)
        if set_aside:
            self.cfg = with_data(self._cfg, set_aside)
        self.input_projection = parts.input_projection
        self.state_encoder = parts.state_encoder
        self.label_head = parts.label_head
        self.affinity_head = parts.affinity_head
        self.loss = parts.loss
        self.setup_steps()

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.config.frame_seconds

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Types of the arguments of :meth:`forward`."""
        return {
            "embeddings": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Type of the main result of :meth:`forward`."""
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}

    def forward(self, embeddings: Tensor, lengths: Tensor) -> LabelerOutput:
        """Label a batch; what is said of a sequence does not depend on the others, nor on what the padding holds.

        Args:
            embeddings: shape (batch, frames, input_dim), padding at the end.
            lengths: valid frames per sequence, shape (batch,), each in [0, frames].

        Raises:
            ValueError: `embeddings` has another shape.
        """
        if embeddings.dim() != 3 or embeddings.shape[2] != self.config.input_dim or embeddings.shape[1] == 0:
            raise ValueError(
                f"`embeddings` must be (batch, frames, {self.config.input_dim}), of one frame or more, but has the "
                f"shape {tuple(embeddings.shape)}. Its last axis is `model.input_dim`."
            )
        states, mask, layer_logits, vectors = self.encode(embeddings, lengths)
        return LabelerOutput(self.label_head(states=states, mask=mask), lengths, layer_logits, vectors)

    def encode(self, embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
        """The states that the label head reads, arguments as in :meth:`forward`.

        Returns:
            States (batch, frames, hidden_size), mask (batch, frames), the label estimates of the layers, and the
            affinity embeddings (batch, frames, dim) or None: of the states, or where the encoder reads the
            embeddings (`affinity_layers`) of the frames that are given to it.
        """
        mask = lengths_to_mask(lengths, embeddings.shape[1])
        frames = self.input_projection(clear_padding(embeddings, mask))
        if getattr(self.state_encoder, "affinity_layers", 0):
            vectors = self.affinity_head(states=frames)
            states, layer_logits = self.state_encoder.forward_with_labels(frames, mask, embeddings=vectors)
            return states, mask, layer_logits, vectors
        states, layer_logits = self.state_encoder.forward_with_labels(frames, mask)
        return states, mask, layer_logits, None if self.affinity_head is None else self.affinity_head(states=states)

    def label(self, embeddings: Any, **options: Any) -> list[Labeling]:
        """Say which classes are active when: :func:`nemo_sortformer.inference.label.label_sequences` on this model.

        Args:
            embeddings: an array (frames, input_dim), a path (.npy, .npz, .pt), a folder, a manifest, or a list.
            options: those of that function.
        """
        from nemo_sortformer.inference.label import label_sequences  # here, as inference stands above models

        return label_sequences(self, embeddings, **options)

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """None is published."""
        return []
