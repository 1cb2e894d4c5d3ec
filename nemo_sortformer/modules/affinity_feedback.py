# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Label feedback whose estimates come from affinities: columns in order of arrival without a sort."""

import torch
from torch import Tensor, nn

from nemo_sortformer.functional.affinity_labels import labels_from_affinities
from nemo_sortformer.modules.permutation_encoding import PermutationEncoding


class AffinityFeedback(nn.Module):
    """Estimates labels from embeddings that are near for frames of one class, and adds them to the states.

    A linear map of the states has to learn which column a class belongs to, and that takes long; which frames are
    alike is learnt in minutes. Here only the second is needed: :func:`labels_from_affinities` makes the columns.

    Args:
        hidden_size: width D of the states.
        num_labels: number of label columns S.
        frames: embeddings are averaged over so many frames, and so many open a column, odd.
        causal: the addition at frame t depends on frames <= t only.
    """

    def __init__(self, hidden_size: int, num_labels: int, *, frames: int = 13, causal: bool = False) -> None:
        super().__init__()
        self.num_labels, self.frames, self.causal = num_labels, frames, causal
        self.norm = nn.LayerNorm(hidden_size)
        self.speech = nn.Linear(hidden_size, 1)
        self.scale = nn.Parameter(torch.tensor(16.0))
        self.margin = nn.Parameter(torch.tensor(0.5))
        self.encoding = PermutationEncoding(num_labels, hidden_size)

    def forward(
        self, states: Tensor, mask: Tensor | None, lengths: Tensor | None, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimate and add; arguments and results as of :class:`LabelFeedback`, with embeddings (batch, frames, dim).

        The embeddings are unit vectors in which frames of one class are near each other, as an `AffinityHead` gives
        them.
        """
        scores = self.speech(self.norm(states))[..., 0]
        speech = scores.to(torch.promote_types(scores.dtype, torch.float32)).sigmoid()
        with torch.autocast(states.device.type, enabled=False):
            probs = labels_from_affinities(
                embeddings,
                speech,
                self.num_labels,
                mask,
                scale=self.scale.to(speech.dtype),
                margin=self.margin.to(speech.dtype),
                smooth_frames=self.frames,
                seed_frames=self.frames,
                causal=self.causal,
            ).clamp(1e-4, 1 - 1e-4)
        logits = torch.log(probs) - torch.log1p(-probs)
        return states + self.encoding(sorted_probs=probs).to(states.dtype), logits
