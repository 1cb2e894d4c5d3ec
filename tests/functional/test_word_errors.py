# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Word errors: by hand, against a plain recursion, against all permutations, and against meeteval."""

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.functional.word_errors import edit_distances, word_error_counts

words = st.lists(st.sampled_from("abc"), max_size=7)
texts = st.lists(words.map(" ".join), max_size=4)


def slow_distance(one, other) -> int:
    """The recursion of the definition."""

    @functools.cache
    def rest(i, j):
        if i == len(one) or j == len(other):
            return len(one) - i + len(other) - j
        return min(rest(i + 1, j) + 1, rest(i, j + 1) + 1, rest(i + 1, j + 1) + (one[i] != other[j]))

    return rest(0, 0)


@given(reference=words, hypotheses=st.lists(words, max_size=4))
def test_distances_are_those_of_the_definition(reference, hypotheses):
    assert edit_distances(reference, hypotheses) == [slow_distance(reference, other) for other in hypotheses]


@given(references=texts, hypotheses=texts)
def test_the_pairing_is_the_best_of_all_permutations(references, hypotheses):
    size = max(len(references), len(hypotheses))
    truth, answer = ([text.split() for text in x] + [[]] * (size - len(x)) for x in (references, hypotheses))
    costs = [
        sum(slow_distance(truth[i], answer[j]) for i, j in enumerate(order))
        for order in itertools.permutations(range(size))
    ]
    errors, count = word_error_counts(references, hypotheses).tolist()
    assert errors == min(costs)
    assert count == sum(len(text.split()) for text in references)
    assert word_error_counts(references, hypotheses, as_is=True).tolist() == [costs[0], count]


@given(references=texts, hypotheses=texts)
def test_the_counts_are_those_of_meeteval(references, hypotheses):
    meeteval = pytest.importorskip("meeteval", reason="meeteval is not installed (extra `words`)")
    theirs = meeteval.wer.cp_word_error_rate(references, hypotheses) if references and hypotheses else None
    if theirs is not None:
        assert word_error_counts(references, hypotheses).tolist() == [theirs.errors, theirs.length]


@given(references=texts, hypotheses=texts, seed=st.randoms())
def test_the_order_of_the_speakers_changes_nothing(references, hypotheses, seed):
    shuffled = hypotheses.copy()
    seed.shuffle(shuffled)
    counts = word_error_counts(references, hypotheses)
    assert counts.tolist() == word_error_counts(references, shuffled).tolist()
    assert word_error_counts(references, references).tolist() == [0, counts[1]]


def test_many_speakers_are_no_matter():
    speakers = [f"w{k} and more" for k in range(30)]
    assert word_error_counts(speakers, speakers[::-1]).tolist() == [0, 90]
