# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Word errors of transcripts that have one text per speaker: edit distances of all pairs, and the best pairing."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nemo_sortformer.functional.permutation import best_assignment


def edit_distances(reference: Sequence[str], hypotheses: Sequence[Sequence[str]]) -> list[int]:
    """Count the insertions, deletions and substitutions that turn one sequence of words into each of several others.

    All hypotheses are compared side by side; the one loop is over the words of the reference.

    Example:
        >>> edit_distances("a b c".split(), ["a c".split(), [], "a b x c d".split()])
        [1, 3, 2]
    """
    lengths = [len(hypothesis) for hypothesis in hypotheses]
    width = max(lengths, default=0)
    numbers = {word: number for number, word in enumerate(dict.fromkeys(reference))}
    table = np.full((len(lengths), width), -1)
    for row, hypothesis in zip(table, hypotheses, strict=True):
        row[: len(hypothesis)] = [numbers.get(word, -1) for word in hypothesis]
    columns = np.arange(width + 1)
    costs = np.tile(columns, (len(lengths), 1))  # of turning the reference so far, none, into so many words
    for word in reference:
        best = costs + 1  # the word is left out
        best[:, 1:] = np.minimum(best[:, 1:], costs[:, :-1] + (table != numbers[word]))
        costs = np.minimum.accumulate(best - columns, axis=1) + columns  # further words are put in
    return [int(row[length]) for row, length in zip(costs, lengths, strict=True)]


def word_error_counts(references: Sequence[str], hypotheses: Sequence[str], *, as_is: bool = False) -> Tensor:
    """Count the word errors of one recording whose speakers each have one text.

    Args:
        references: the words of each true speaker, parted by white space, in any order; compared as they are written.
        hypotheses: the same of the answer; there may be more or fewer.
        as_is: compare text k with text k instead of pairing the texts so that the errors are fewest.

    Returns:
        (errors, words of the references), int64, shape (2,). A text without a partner counts with all its words.

    Source: concatenated minimum-permutation word error rate, Watanabe et al. 2020 (arXiv:2004.09249), with the
        Hungarian algorithm in place of the permutations.

    Example:
        >>> word_error_counts(["a b", "c d"], ["c d e", "a b"]).tolist()
        [1, 4]
        >>> word_error_counts(["a b", "c d"], ["c d e", "a b"], as_is=True).tolist()
        [5, 4]
    """
    size = max(len(references), len(hypotheses))
    truth, answer = ([text.split() for text in texts] for texts in (references, hypotheses))
    words = sum(map(len, truth))
    if not size:
        return torch.zeros(2, dtype=torch.long)
    truth += [[]] * (size - len(truth))
    answer += [[]] * (size - len(answer))
    if as_is:
        errors = sum(edit_distances(one, [other])[0] for one, other in zip(truth, answer, strict=True))
        return torch.tensor([errors, words])
    costs = torch.tensor([edit_distances(one, answer) for one in truth])
    pairs = best_assignment(costs[None])
    return torch.stack((costs.gather(1, pairs[0, :, None]).sum(), torch.tensor(words)))
