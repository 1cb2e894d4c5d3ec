# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Where recordings with words come from: the data sets of the joint model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nemo_sortformer.config.data import DatasetConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.config.utterances import UtteranceMixingConfig


@dataclass(kw_only=True)
class JointDatasetConfig(DatasetConfig):
    """One data source with words: exactly one of `manifest_filepath`, `cuts_path`, `lhotse` and `utterances`."""

    utterances: UtteranceMixingConfig | None = None
    """Sessions laid out on the fly of whole utterances with text."""
    text_fields: dict[str, str] = field(default_factory=dict)
    """Which text of the data each text head learns, by name of the head; `words`, the transcript, if not given."""
    unknown_text: Literal["warn", "error"] = "warn"
    """What to do about characters that the tokenizer does not know: count them and warn once, or stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing is not None:
            raise ConfigError(
                "`mixing` cuts utterances, so that nobody knows which words are left. Set `utterances`, which mixes "
                "whole ones, with the same keys for room, noise and channel."
            )
        others = [name for name in ("manifest_filepath", "cuts_path", "lhotse") if getattr(self, name)]
        if self.utterances is not None and others:
            raise ConfigError(f"Only one data source can be given, but `utterances` and `{others[0]}` are.")
        if not all(isinstance(value, str) and value for value in self.text_fields.values()):
            raise ConfigError(f"`text_fields` must name one text per head, but is {self.text_fields}.")

    @property
    def source(self) -> str | None:
        """``utterances``, ``manifest``, ``cuts``, or None where no source is named yet."""
        return "utterances" if self.utterances is not None else super().source
