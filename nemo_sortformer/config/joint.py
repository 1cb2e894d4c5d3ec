# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of the joint model of who said what: those of the diarizer, and one group for each text head."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nemo_sortformer.config.diarizer import DiarizerConfig
from nemo_sortformer.config.joint_data import JointDatasetConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg

_PARTS_OF_THE_LABEL_LOSS = ("sort", "pil", "layer", "affinity", "activity")


@dataclass(kw_only=True)
class SpeakerKernelConfig:
    """How the text heads are told who speaks, beyond what the states carry."""

    kind: Literal["none", "sinusoidal", "learned"] = "none"
    """Vectors added to L2-normalized states wherever a speaker is active."""
    norm: float = 1.0
    """Length of the normalized states; the paper's is 1, the root of their width makes them as long as a kernel."""
    labels: Literal["predicted", "true", "mixed"] = "predicted"
    """Whose labels the kernels, and the streams of `ctc_streams`, are given. ``true`` in evaluation too: an upper
    bound. ``mixed``: in training the true ones for a share of the recordings, in evaluation the predicted ones."""
    true_share_start: float = 1.0
    """Of ``mixed``: share of recordings with true labels at the first step, in [0, 1]."""
    true_share_end: float = 0.0
    """Share after `steps`; in between it changes evenly."""
    steps: int = 5000
    """Training steps from the first share to the last."""
    gradient: bool = False
    """Let the text losses change the predicted labels too; else these learn from labels alone."""

    def __post_init__(self) -> None:
        for name in ("true_share_start", "true_share_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1], but is {getattr(self, name)}.")
        if self.steps < 1:
            raise ConfigError(f"`steps` must be at least 1, but is {self.steps}.")
        if self.norm <= 0:
            raise ConfigError(f"`norm` must be above 0, but is {self.norm}.")

    def true_share(self, step: int) -> float:
        """Share of the recordings that get their true labels at a step of training."""
        if self.labels != "mixed":
            return float(self.labels == "true")
        done = min(step / self.steps, 1.0)
        return self.true_share_start + (self.true_share_end - self.true_share_start) * done


@dataclass(kw_only=True)
class TextHeadConfig:
    """One text: what is written, in which tokens, and by which decoder."""

    kind: Literal["aed", "ctc", "rnnt", "ctc_streams"]
    """``aed``: NeMo's Transformer decoder, all speakers in one text with speaker tags. ``ctc``: the same text, a
    token or none per frame. ``rnnt``: the same text by NeMo's transducer. ``ctc_streams``: one text per speaker slot,
    without tags."""
    tokenizer: dict[str, Any]
    """NeMo's keys: `type` (``bpe``, ``wpe``, ``agg``), `dir` or `model_path`, `langs`, `custom_tokenizer`; and
    `language`, which of the languages of an aggregate tokenizer the text is in."""
    field: str = "words"
    """Where the data have the text, e.g. `words`, or the name of a translation."""
    serialization: Literal["word", "segment"] = "word"
    """Whether the speaker can change behind every word, or after whole utterances only."""
    weight: float = 1.0
    """Factor on its loss."""
    reads: Literal["states", "acoustic"] | None = None
    """What it reads, where that is not the `reads` of the model."""
    decoder: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Sizes of the decoder: keys of `AttentionTextHead`, `CtcTextHead`, `TransducerTextHead` or `StreamTextHead`."""
    prompt: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of ``aed``: what NeMo's decoders are told before the text, by `format` (``canary``) and the parts of the format,
    e.g. `source_lang`, `target_lang`, `task` and `pnc`. Empty: the begin alone."""
    max_tokens_per_second: float = 12.0
    """Bound on what ``aed`` writes."""
    label_smoothing: float = 0.0
    """Of ``aed``: share of the target given to all tokens alike, in [0, 1)."""
    init_from: str | None = None
    """A NeMo .nemo file whose decoder starts this one; read once, when a training run sets the model up."""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"`weight` must be above 0, but is {self.weight}. Leave the head out of `text`.")
        if self.max_tokens_per_second <= 0:
            raise ConfigError(f"`max_tokens_per_second` must be above 0, but is {self.max_tokens_per_second}.")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"`label_smoothing` must be in [0, 1), but is {self.label_smoothing}.")
        if self.prompt and self.kind != "aed":
            raise ConfigError(f"`prompt` is for the kind `aed`, but the kind is `{self.kind}`.")
        if self.label_smoothing and self.kind != "aed":
            raise ConfigError(f"`label_smoothing` is for the kind `aed`, but the kind is `{self.kind}`.")


@dataclass(kw_only=True)
class JointASRConfig(DiarizerConfig):
    """Everything under `model:`. All keys of the diarizer, and what makes it write down what is said."""

    text: dict[str, Any]
    """The text heads by name, each with the keys of :class:`TextHeadConfig`; the first is the main one. None takes a
    head out that another YAML has."""
    reads: Literal["states", "acoustic"] = "states"
    """What text heads read: the states of the SortFormer encoder, whose permutation encoding says who is who, or the
    output of the acoustic encoder."""
    speaker_kernel: SpeakerKernelConfig = dataclasses.field(default_factory=SpeakerKernelConfig)
    """How text heads are told who speaks."""
    max_decoded_batches: int | None = 16
    """Validation writes down what is said in so many batches of each loader, to count wrong words; the heads `aed`
    need a pass per token for that. None: in all. Test runs decode all."""
    train_ds: JointDatasetConfig | None = None  # type: ignore[assignment]
    """Training data."""
    validation_ds: JointDatasetConfig | None = None  # type: ignore[assignment]
    """Validation data."""
    test_ds: JointDatasetConfig | None = None  # type: ignore[assignment]
    """Test data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.text = {name: head for name, head in (self.text or {}).items() if head is not None}
        if not self.text:
            raise ConfigError(
                "`text` must have one text head or more, but is empty. A model without is a `SortformerDiarizer`."
            )
        for name in self.text:
            if not str(name).isidentifier() or name in _PARTS_OF_THE_LABEL_LOSS:
                raise ConfigError(
                    f"`text` must have names of letters, digits and `_`, other than those of the parts of the loss on "
                    f"labels ({', '.join(_PARTS_OF_THE_LABEL_LOSS)}), but one is {name!r}."
                )
        if self.loss.pil_weight > 0:
            raise ConfigError(
                f"`loss.pil_weight` must be 0 with text heads, but is {self.loss.pil_weight}: labels in the order "
                "that fits best could name another speaker first than the text does. Set `loss.sort_weight` alone."
            )
        if self.loss.tie_tolerance is not None:
            raise ConfigError(
                f"`loss.tie_tolerance` must be null with text heads, but is {self.loss.tie_tolerance}: labels that "
                "may be swapped could name another speaker first than the text does."
            )

    @property
    def heads(self) -> dict[str, TextHeadConfig]:
        """The text heads by name."""
        return {name: from_cfg(TextHeadConfig, value, path=f"model.text.{name}") for name, value in self.text.items()}
