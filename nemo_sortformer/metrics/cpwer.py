# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Word error rate of transcripts that say who said what."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from nemo_sortformer.functional.word_errors import word_error_counts


class ConcatenatedPermutationWER(Metric):
    """cpWER: inserted, left out and changed words over the true ones, pooled over recordings, batches and ranks.

    All that a speaker says is one text. The texts of a recording are paired with the true ones so that the errors are
    fewest or, with `as_is`, text k with the k-th true one, as they come. Words are compared as they are written:
    normalize case and punctuation before. Without any true word the rate is 0 where the answer is empty too, else 1.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    counts: Tensor

    def __init__(self, *, as_is: bool = False) -> None:
        super().__init__()
        self.as_is = as_is
        self.add_state("counts", default=torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> None:
        """Add recordings: for each the texts of its true speakers, and those of the answer; the numbers may differ.

        Raises:
            ValueError: there are more or fewer `hypotheses` than `references`, or an entry is one text.
        """
        if len(references) != len(hypotheses):
            raise ValueError(
                f"`hypotheses` must have one entry per recording, {len(references)} as `references`, but has "
                f"{len(hypotheses)}. A recording in which nobody speaks has an empty list."
            )
        for name, entries in (("references", references), ("hypotheses", hypotheses)):
            if isinstance(entries, str) or any(isinstance(entry, str) for entry in entries):
                raise ValueError(
                    f"`{name}` must hold a list of texts per recording, one per speaker, but one entry is a text."
                )
        for truth, answer in zip(references, hypotheses):
            self.counts = self.counts + word_error_counts(truth, answer, as_is=self.as_is).to(self.counts.device)

    def compute(self) -> Tensor:
        """Give the error rate, a float32 scalar, 0.1 for 10 %; above 1 where many words are inserted."""
        errors, words = self.counts.float().unbind()
        return torch.where(words > 0, errors / words.clamp(min=1), (errors > 0).float())
