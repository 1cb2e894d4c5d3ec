# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation of the labeler: kinds of labels, heads with losses, many slots, data hard to like."""

import itertools
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.embeddings import ArrayDataset
from nemo_sortformer.models.labeler import SortformerLabeler

KINDS = {"speaker": {"num_classes": 3}, "language": {"num_classes": 2, "weight": 0.5}}
METRICS = {"der", "f1", "class_count", "der_as_is"}


def make_trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    return Trainer(**quiet | options)


def sequences(number, *, classes=3, frames=24, seed=0, dim=6):
    """Classes that take turns: a frame is the vector of its class, plus a little noise."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        labels = np.zeros((frames, classes))
        for start in range(0, frames, 4):
            labels[start : start + 4, rng.integers(classes)] = rng.random() > 0.2
        made.append((labels @ rng.normal(size=(classes, dim)) + 0.1 * rng.normal(size=(frames, dim)), labels))
    return made


def batch_of(data, **options):
    return next(iter(ArrayDataset(data, **options).loader(len(data))))


def test_the_loss_is_the_weighted_sum_of_its_parts_by_kind(labeler_cfg):
    torch.manual_seed(0)
    loss = {"sort_weight": 0.7, "pil_weight": 0.2, "layer_weight": 0.3}
    model = SortformerLabeler(cfg=labeler_cfg(heads=KINDS, loss=loss, affinity={"dim": 4, "weight": 0.4})).eval()
    data = [(x, {"speaker": y, "language": y[:, :2]}) for x, y in sequences(3)]
    batch = batch_of(data, num_classes=model.num_classes)
    total, parts, (output, targets, lengths) = model.compute_losses(batch)
    weights = {"sort_speaker": 0.7, "pil_speaker": 0.2, "sort_language": 0.35, "pil_language": 0.1}
    weights |= {"layer": 0.3, "affinity": 0.4}
    assert model.loss_weights() == pytest.approx(weights)
    assert_close(total, sum(weights[name] * part for name, part in parts.items()))
    own = model.loss.parts(output.logits[..., 3:], targets[..., 3:], lengths)
    assert_close(parts["sort_language"], own["sort"])
    assert_close(parts["pil_language"], own["pil"])


def test_the_loss_does_not_depend_on_the_order_of_the_classes_of_any_kind(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg(heads=KINDS)).eval()
    (x, y), losses = sequences(1)[0], []
    for order in itertools.permutations(range(3)):
        data = [(x, {"speaker": y[:, list(order)], "language": y[:, [order[0] % 2, 1 - order[0] % 2]]})]
        losses.append(model.compute_losses(batch_of(data, num_classes=model.num_classes))[0].detach())
    assert_close(torch.stack(losses), losses[0].expand(len(losses)))


def test_every_parameter_that_trains_gets_a_gradient(labeler_cfg):
    for changes in ({}, {"heads": KINDS}, {"affinity": {"dim": 4}}, {"affinity": {"dim": 4, "weight": 0.0}}):
        model = SortformerLabeler(cfg=labeler_cfg(**changes))
        data = [(x, {"speaker": y, "language": y[:, :2], "": y}) for x, y in sequences(2)]
        model.compute_losses(batch_of(data, num_classes=model.num_classes))[0].backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("changes", [{}, {"heads": KINDS}])
def test_training_and_evaluation_log_each_kind(labeler_cfg, tmp_path, changes):
    lines = []
    for number, (x, y) in enumerate(sequences(6)):
        np.savez(tmp_path / f"{number}.npz", embeddings=x, labels=y, labels_speaker=y, labels_language=y[:, :2])
        lines.append(json.dumps({"embeddings_filepath": f"{number}.npz"}) + "\n")
    (tmp_path / "data.jsonl").write_text("".join(lines))
    source = {"manifest_filepath": str(tmp_path / "data.jsonl"), "batch_size": 2, "max_frames": 16}
    cfg = labeler_cfg(train_ds=source, validation_ds=source, test_ds=source, der_collar=1.0, **changes)
    trainer = make_trainer(max_epochs=1, log_every_n_steps=2)
    model = SortformerLabeler(cfg=cfg, trainer=trainer)
    trainer.fit(model)
    expected = {"train_loss", "frames_per_second", "grad_norm", "learning_rate", "val_loss", "val_der_collar"}
    kinds = ["_speaker", "_language"] if changes else [""]
    expected |= {f"{stage}_{name}" for stage in ("train", "val") for name in METRICS}
    expected |= {f"val_{name}{kind}" for name in (*METRICS, "loss_sort", "loss_pil") for kind in kinds}
    assert expected <= set(trainer.callback_metrics)
    tested = trainer.test(model, verbose=False)[0]
    assert tested["test_loss"] == pytest.approx(float(trainer.validate(model, verbose=False)[0]["val_loss"]), abs=1e-6)


def test_the_error_over_all_kinds_adds_their_frames(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg(heads=KINDS))
    data = [(x, {"speaker": y, "language": y[:, :2]}) for x, y in sequences(4)]
    loader = ArrayDataset(data, num_classes=model.num_classes).loader(3)
    values = make_trainer().test(model, dataloaders=loader, verbose=False)[0]
    frames = {kind: sum(labels[kind].sum() for _, labels in data) for kind in KINDS}
    pooled = sum(values[f"test_der_{kind}"] * count for kind, count in frames.items()) / sum(frames.values())
    assert values["test_der"] == pytest.approx(pooled, abs=1e-5)


def test_a_head_with_a_loss_of_its_own_is_measured_without_a_look_at_the_labels(labeler_cfg):
    head = {"_target_": "nemo_sortformer.baselines.AttractorHead"}
    model = SortformerLabeler(cfg=labeler_cfg(head=head)).eval()
    batch = batch_of(sequences(3), num_classes=3)
    total, parts, (output, _, _) = model.compute_losses(batch)
    assert set(parts) == {"sort", "pil", "head"}
    assert_close(total, 0.5 * parts["sort"] + 0.5 * parts["pil"] + parts["head"])
    assert_close(output.logits, model(embeddings=batch[0], lengths=batch[1]).logits)
    values = make_trainer().test(model, dataloaders=ArrayDataset(sequences(3), num_classes=3).loader(2), verbose=False)
    assert values[0]["test_loss_head"] > 0


@pytest.mark.parametrize("slots", [8, 16])
def test_many_slots_train_evaluate_and_label(labeler_cfg, slots):
    data = sequences(6, classes=slots, frames=80, dim=6)
    model = SortformerLabeler(cfg=labeler_cfg(max_num_of_classes=slots, loss={"layer_weight": 0.1}))
    before = model.label_head.labels.weight.clone()
    loader = ArrayDataset(data, num_classes=slots).loader(3)
    trainer = make_trainer(max_steps=2)
    model.set_trainer(trainer)
    trainer.fit(model, train_dataloaders=loader, val_dataloaders=loader)
    assert not torch.equal(before, model.label_head.labels.weight)
    assert 0 <= float(trainer.callback_metrics["val_der"]) < slots
    answers = model.label([x for x, _ in data])
    assert all(answer.probs.shape == (80, slots) for answer in answers)


def test_sequences_that_are_hard_to_like_have_a_finite_loss(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg(affinity={"dim": 4}))
    x, y = sequences(1)[0]
    hard = [(x, y), (x[:1], y[:1]), (x, y * 0), (x[:1], y[:1] * 0), (x * 0, y)]
    for data in (hard, hard[1:2], hard[2:3], hard[3:4]):
        model.zero_grad()
        loss = model.compute_losses(batch_of(data, num_classes=3))[0]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_gradient_does_not_see_the_padding(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg(affinity={"dim": 4, "max_frames": 24})).eval()
    embeddings, lengths, targets, _ = batch_of(
        [(x[:n], y[:n]) for (x, y), n in zip(sequences(2), (9, 24))], num_classes=3
    )
    gradients = []
    for value in (0.0, torch.nan):
        model.zero_grad()
        embeddings[0, 9:] = value
        model.compute_losses((embeddings, lengths, targets, lengths))[0].backward()
        gradients.append(model.input_projection.weight.grad.clone())
    assert_close(gradients[0], gradients[1])


def test_targets_that_do_not_fit_are_refused(labeler_cfg):
    model = SortformerLabeler(cfg=labeler_cfg())
    x, lengths = torch.randn(2, 5, 6), torch.tensor([5, 3])
    for shape in ((2, 5, 4), (2, 6, 3), (1, 5, 3)):
        with pytest.raises(ValueError, match=r"`targets` must have the batch and frames .* \(2, 5, 3\), but has"):
            model.compute_losses((x, lengths, torch.zeros(shape), lengths))


def test_a_misspelt_key_of_the_data_is_refused(labeler_cfg):
    with pytest.raises(ConfigError, match="`model.train_ds.max_frame`.*Did you mean `max_frames`"):
        SortformerLabeler(cfg=labeler_cfg(train_ds={"manifest_filepath": "x.jsonl", "max_frame": 3}))


def test_nan_in_the_weights_stops_the_run(labeler_cfg):
    trainer = make_trainer(max_steps=2)
    model = SortformerLabeler(cfg=labeler_cfg(), trainer=trainer)
    with torch.no_grad():
        model.label_head.labels.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="The loss of step 0 is not finite"):
        trainer.fit(model, train_dataloaders=ArrayDataset(sequences(2), num_classes=3).loader(2))


@pytest.mark.slow
def test_two_kinds_of_labels_are_learnt_at_once(labeler_cfg):
    """Speakers and languages of the test are new. An answer without any class is wrong by 1."""

    def made(number, seed):
        speakers = sequences(number, seed=seed, classes=2)
        languages = sequences(number, seed=seed + 1, classes=2)
        pairs = zip(speakers, languages, strict=True)
        return [(np.concatenate([a, b], axis=1), {"speaker": y, "language": z}) for (a, y), (b, z) in pairs]

    torch.manual_seed(0)
    kinds = {"speaker": {"num_classes": 2}, "language": {"num_classes": 2}}
    encoder = {
        "_target_": "nemo_sortformer.modules.SortformerEncoder",
        "num_layers": 3,
        "hidden_size": 48,
        "inner_size": 96,
        "num_attention_heads": 2,
        "conv_kernel": 5,
        "causal": True,
        "dropout": 0.0,
    }
    cfg = labeler_cfg(heads=kinds, input_dim=12, encoder=encoder, optim={"name": "adamw", "lr": 5e-3})
    trainer = make_trainer(max_steps=400, gradient_clip_val=1.0)
    model = SortformerLabeler(cfg=cfg, trainer=trainer)
    counts = model.num_classes
    trainer.fit(model, train_dataloaders=ArrayDataset(made(800, 0), num_classes=counts).loader(16, shuffle=True))
    test = ArrayDataset(made(50, 1000), num_classes=counts).loader(50)
    values = trainer.test(model, dataloaders=test, verbose=False)[0]
    assert values["test_der_speaker"] < 0.35
    assert values["test_der_language"] < 0.35
