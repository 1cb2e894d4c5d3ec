# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The permutation encoding by hand."""

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer.modules import PermutationEncoding


def test_each_speaker_adds_a_vector_of_their_own_and_silence_adds_nothing():
    encoding = PermutationEncoding(3, 5)
    output = encoding(sorted_probs=torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]]]))
    rows = encoding.weight
    assert_close(output[0], torch.stack([torch.zeros(5), rows[1], rows[0] + 0.5 * rows[2]]))


def test_the_sum_of_all_vectors_has_unit_variance_at_the_start():
    torch.manual_seed(0)
    for num_labels in (2, 8):
        assert PermutationEncoding(num_labels, 20_000).weight.sum(0).var().item() == pytest.approx(1.0, rel=0.05)


def test_ports_are_checked():
    with pytest.raises(TypeError):
        PermutationEncoding(3, 5)(sorted_probs=torch.zeros(3))
