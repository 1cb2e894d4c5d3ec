# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""EEND-EDA: an LSTM reads all frames, another writes one attractor per class, and frames are compared with them."""

import torch
from nemo.core.classes import typecheck
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from nemo_sortformer.modules.label_head import StateHead
from nemo_sortformer.modules.padding import checked_mask, clear_padding

SILENT_LOGIT = -20.0
_GOLDEN = 0.6180339887498949


class AttractorHead(StateHead):
    """Attractors by an LSTM encoder and decoder, with a probability that each exists; logits = states . attractors.

    The decoder writes one attractor more than there are slots, from zeros, and learns to say when it is done. In
    training only the slots of classes that are there compete for them; later, only those before the first attractor
    that is less likely than `threshold` speak.

    Args:
        hidden_size: width D of the states.
        num_classes: label columns S.
        shuffle: read the frames in random order (in a fixed mixed order when not training), as the paper does: in the
            order of time an LSTM forgets what came first.
        existence_weight: weight of the existence loss beside the label loss.
        threshold: probability from which on an attractor exists.

    Raises:
        ValueError: `num_classes` below one.

    Source: Horiguchi et al. 2020 (arXiv:2005.09921), section 4: LSTM encoder and decoder, existence probabilities and
        their loss, labels as products of frames and attractors, frames in shuffled order.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        *,
        shuffle: bool = True,
        existence_weight: float = 1.0,
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
        self.num_classes, self.shuffle = num_classes, shuffle
        self.existence_weight, self.threshold = existence_weight, threshold
        self.encoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.decoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.decoder.weight_ih_l0.requires_grad_(False)  # its input is zero
        self.existence = nn.Linear(hidden_size, 1)

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """States (batch, frames, hidden_size), mask (batch, frames) -> logits (batch, frames, num_classes).

        A slot whose attractor does not exist, or comes after one that does not, has the logit -20 throughout.
        """
        attractors, existence = self.attractors(states, mask)
        exists = (existence[:, : self.num_classes].sigmoid() >= self.threshold).cummin(dim=1).values
        return self._logits(states, attractors, exists)

    def forward_with_losses(
        self, states: Tensor, mask: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What training needs: the logits with the true number of classes, and the existence loss times its weight.

        Args:
            states: shape (batch, frames, hidden_size).
            mask: true = valid, shape (batch, frames); none = all valid.
            labels: activity, shape (batch, frames, num_classes), columns in any order.

        Returns:
            Logits as of :meth:`forward`, but with as many slots as the labels have active classes: slots beyond are
            silent, so a permutation invariant loss on them is the paper's loss on the true number of classes. And
            {"existence": mean cross-entropy over the attractors that the paper counts, one more than classes}.
        """
        attractors, existence = self.attractors(states, mask)
        valid = checked_mask(states, mask)
        count = (clear_padding(labels, valid) > 0.5).any(dim=1).sum(dim=1, keepdim=True)
        place = torch.arange(self.num_classes + 1, device=states.device)
        error = F.binary_cross_entropy_with_logits(existence, (place < count).to(existence.dtype), reduction="none")
        counted = place <= count
        loss = (error * counted).sum() / counted.sum()
        logits = self._logits(states, attractors, place[: self.num_classes] < count)
        return logits, {"existence": self.existence_weight * loss}

    def attractors(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Write one attractor more than slots.

        Returns:
            Attractors, shape (batch, num_classes + 1, hidden_size), and their existence logits, shape
            (batch, num_classes + 1), in float32 or wider.
        """
        valid = checked_mask(states, mask)
        frames = clear_padding(states, valid)
        if self.shuffle:
            order = self._order(frames, valid)
            frames = frames.gather(1, order[:, :, None].expand_as(frames))
        if valid is not None:  # the packing needs the lengths on the host, which waits for an accelerator
            lengths = valid.sum(dim=1).clamp(min=1).cpu()
            frames = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        _, memory = self.encoder(frames)
        zeros = states.new_zeros(states.shape[0], self.num_classes + 1, states.shape[2])
        attractors, _ = self.decoder(zeros, memory)
        existence = self.existence(attractors)[:, :, 0]
        return attractors, existence.to(torch.promote_types(existence.dtype, torch.float32))

    def _order(self, frames: Tensor, valid: Tensor | None) -> Tensor:
        """A mixed order of the frames with the padding last, shape (batch, frames)."""
        if self.training:
            key = torch.rand(frames.shape[:2], device=frames.device)
        else:
            place = torch.arange(frames.shape[1], device=frames.device, dtype=torch.float32)
            key = (place * _GOLDEN).frac().expand(frames.shape[:2])
        return (key if valid is None else key.masked_fill(~valid, 2.0)).argsort(dim=1)

    def _logits(self, states: Tensor, attractors: Tensor, exists: Tensor) -> Tensor:
        logits = torch.bmm(states, attractors[:, : self.num_classes].mT)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.masked_fill(~exists[:, None, :], SILENT_LOGIT)
