# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Weights of one model in another: all of them, or those under whole prefixes, with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo.utils import logging
from torch import Tensor, nn

from nemo_sortformer.nemo_bridge.archive import NemoFileError
from nemo_sortformer.nemo_bridge.names import TRAINING_ONLY, listed, prefix_test


class WeightsError(NemoFileError, RuntimeError):
    """The names of the weights in a file are not those of the model."""


@dataclass(frozen=True)
class LoadReport:
    """What a partial load took from a file."""

    path: str
    loaded: tuple[str, ...]
    """Names in the model that were set."""
    missing: tuple[str, ...]
    """Names in the model that were asked for and that the file lacks; they keep their values."""
    unused: tuple[str, ...]
    """Names in the file that were asked for and that the model lacks."""
    notes: tuple[str, ...] = ()
    """What differs and does no harm."""

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded from `{self.path}`"
        rest = (("kept their start values", self.missing), ("of the file have no place here", self.unused))
        for words, names in rest:
            if names:
                text += f"; {len(names)} {words} (`{names[0]}`{', ...' if len(names) > 1 else ''})"
        return ". ".join((text, *self.notes)) + "."


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    path: str,
    include: Sequence[str] = ("",),
    exclude: Sequence[str] = (),
) -> LoadReport:
    """Copy those of `weights` into `model` whose names start with one of `include` and with none of `exclude`.

    A prefix is a whole path: `encoder` (or `encoder.`) is `encoder.layers...`, never `transformer_encoder...` or
    `encoder_proj...`; NeMo's own loading takes it for a part of the name anywhere.

    Raises:
        NemoFileError: nothing fits, or a tensor has another shape than its place in the model.
    """
    wanted = prefix_test(include, exclude)
    own = {name: tensor for name, tensor in model.state_dict().items() if wanted(name)}
    given = {name: tensor for name, tensor in weights.items() if wanted(name)}
    both = [name for name in own if name in given]
    if not both:
        kinds = sorted({name.partition(".")[0] for name in weights})
        raise NemoFileError(
            f"`{path}` has no weights named {', '.join(f'`{p}`' for p in include if p) or 'as in this model'}, so "
            f"nothing can start from it; it has {', '.join(f'`{kind}`' for kind in kinds)}."
        )
    wrong = [name for name in both if own[name].shape != given[name].shape]
    if wrong:
        first = wrong[0]
        raise NemoFileError(
            f"{len(wrong)} tensors of `{path}` have another shape than here, the first is `{first}`: "
            f"{tuple(given[first].shape)} in the file, {tuple(own[first].shape)} in the model. Set the model's "
            f"sizes to those of the file, or leave these names out."
        )
    model.load_state_dict({name: given[name] for name in both}, strict=False)
    return LoadReport(
        path=path,
        loaded=tuple(both),
        missing=tuple(name for name in own if name not in given),
        unused=tuple(name for name in given if name not in own),
    )


def check_names(*, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Judge a restore by the names that did not fit; weights of parts that only train are named in a warning.

    Args:
        missing: weights of the model that the file lacks.
        unexpected: weights of the file that the model lacks.

    Raises:
        WeightsError: a weight has no place in the model, or the model has one that the file lacks. Either would
            change the numbers.
    """
    for_training = [name for name in unexpected if prefix_test(TRAINING_ONLY)(name)]
    if for_training:
        logging.warning(f"The weights {listed(for_training, most=2)} take part in training only and are left out.")
    homeless = [name for name in unexpected if name not in for_training]
    if homeless or missing:
        raise WeightsError(_mismatch(homeless, missing))


def _mismatch(homeless: Sequence[str], missing: Sequence[str]) -> str:
    parts = []
    if homeless:
        parts.append(f"{len(homeless)} weights of the file have no place in the model: {listed(homeless, most=4)}")
    if missing:
        parts.append(f"{len(missing)} weights of the model are not in the file: {listed(missing, most=4)}")
    return (
        f"{'; '.join(parts)}. The numbers would not be those of the file. `nemo-sortformer inspect` says what it "
        f"is; `strict=False` loads what fits and leaves the rest at its start values."
    )
