# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A joint model with a text head of each kind trains in any layout as in one process, and writes the same words."""

import pytest
import torch

from nemo_sortformer import SortformerJointASR
from tests.distributed.test_parity import BF16, EXACT, check_exact, distance, errors
from tests.models import joint_sessions

pytestmark = pytest.mark.slow
HEADS = ("text_heads.words", "text_heads.streams", "text_heads.plain", "text_heads.moved", "speaker_kernels")
LAYOUTS = ["zero1", "zero2 recomputed", "zero3", "tensor", "tensor sequence"]


@pytest.fixture(scope="module")
def two(run_processes, tmp_path_factory):
    """All layouts of two processes at once."""
    tokenizer = joint_sessions.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    files = tmp_path_factory.mktemp("files")
    return run_processes("joint.py", 2, tokenizer, files, *LAYOUTS, "bf16", "no token counts", timeout=300.0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_processes_give_the_numbers_of_one(two, name):
    result = two[name]
    check_exact(result)
    wanted = result["reference"]["gradients"]
    for head in HEADS:  # each by itself, as the largest would hide the others
        for step, gradients in result["gradients"].items():
            found = distance(*({n: g for n, g in one.items() if head in n} for one in (gradients, wanted[step])))
            assert max(found) < EXACT, (head, step, found)
    assert {"val_cpwer", "val_cpwer_streams", "val_cpwer_plain", "val_cpwer_moved"} <= set(result["metrics"])


def test_bf16_differs_by_its_rounding_only(two):
    result = two["bf16"]
    found = errors(result)
    assert result["dtypes"] == {"torch.float32"}, "the parameters that the optimizer changes"
    assert result["checksums"][0] == result["checksums"][1], "the same bits on both processes"
    assert EXACT < found["gradient"] <= found["later gradient"] < BF16, found
    assert found["loss"] < 1e-2, found
    assert found["weight"] < 1e-2, found


def test_a_mean_over_frames_in_place_of_tokens_is_noticed(two):
    assert errors(two["no token counts"])["gradient"] > 100 * EXACT


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_file_of_two_processes_writes_their_words_in_a_plain_one(two, name):
    result = two[name]
    model = SortformerJointASR.restore_from(result["file"], map_location="cpu").eval()
    audio, lengths, targets = result["batch"]
    said = {}
    for head in model.text_heads:
        output, said[head] = model.write_down(audio, lengths, head=head, labels=targets)
    assert result["same words"]
    assert said == result["said"]
    assert any(said["words"])
    torch.testing.assert_close(output.logits, result["logits"], rtol=1e-5, atol=1e-5)
