# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training, validation and test through Lightning: what is logged, pooled, resumed, and computed at all."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch.testing import assert_close

from nemo_sortformer.config import ConfigError
from nemo_sortformer.models.diarizer import SortformerDiarizer
from nemo_sortformer.modules import SortformerEncoder


def make_trainer(**options):
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**defaults | options)


def logged(logger):
    """The values of a CSV log, by name."""
    columns = {}
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    columns.setdefault(name, []).append(float(value))
    return columns


def test_training_logs_what_a_person_watches(our_cfg, tone_manifest, tmp_path):
    manifest = tone_manifest([3.0, 3.5, 2.5, 3.2])
    cfg = our_cfg(
        affinity={"dim": 8},
        train_ds={"manifest_filepath": manifest, "batch_size": 2},
        validation_ds={"manifest_filepath": manifest, "batch_size": 3},
        der_collar=0.25,
    )
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(max_steps=4, log_every_n_steps=2, logger=logger)
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    trainer.fit(model)
    values = logged(logger)
    parts = {f"train_loss_{name}" for name in ("sort", "pil", "layer", "affinity")}
    watched = {"train_loss", "learning_rate", "grad_norm", "audio_seconds_per_second"}
    watched |= {"train_der", "train_f1", "train_speaker_count"}
    assert parts | watched <= set(values)
    assert len(values["train_der"]) == 2  # every second step
    assert min(values["audio_seconds_per_second"]) > 0
    assert min(values["grad_norm"]) > 0
    total = (
        0.5 * torch.tensor(values["train_loss_sort"])
        + 0.5 * torch.tensor(values["train_loss_pil"])
        + 0.2 * torch.tensor(values["train_loss_layer"])
        + 0.5 * torch.tensor(values["train_loss_affinity"])
    )
    assert_close(torch.tensor(values["train_loss"])[-1], total[-1])
    expected = {"val_loss", "val_loss_sort", "val_loss_pil", "val_loss_affinity"}
    assert expected | {"val_der", "val_f1", "val_speaker_count", "val_der_collar"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_what_is_measured_does_not_depend_on_the_batch_size(our_cfg, tone_manifest, batch_size):
    torch.manual_seed(5)
    model = SortformerDiarizer(cfg=our_cfg(der_collar=0.1, loss={"sort_weight": 1.0}))
    manifest = tone_manifest([3.0, 1.5, 2.5, 3.2, 4.1])
    results = []
    for size in (batch_size, 3):
        trainer = make_trainer()
        model.set_trainer(trainer)
        model.setup_multiple_test_data({"manifest_filepath": manifest, "batch_size": size})
        results.append(trainer.test(model, verbose=False)[0])
    first, second = results
    assert set(first) == {
        f"test_{n}" for n in ("loss", "loss_sort", "loss_pil", "der", "f1", "speaker_count", "der_collar")
    }
    for name, value in first.items():
        assert value == pytest.approx(second[name], abs=1e-5), name


def test_several_manifests_are_logged_under_their_names(our_cfg, tone_manifest):
    paths = [tone_manifest([2.0, 3.0], name="one"), tone_manifest([2.5], name="two", speakers=3)]
    trainer = make_trainer()
    cfg = our_cfg(validation_ds={"manifest_filepath": paths, "batch_size": 2, "val_dl_idx": 1})
    trainer.validate(SortformerDiarizer(cfg=cfg, trainer=trainer), verbose=False)
    values = trainer.callback_metrics
    assert {"one_val_der", "two_val_der", "one_val_loss", "two_val_loss"} <= {n.split("/")[0] for n in values}
    by_name = {name.split("/")[0]: float(value) for name, value in values.items()}
    assert by_name["val_loss"] == by_name["two_val_loss"] != by_name["one_val_loss"]


def test_evaluating_twice_gives_the_same_though_the_affinity_loss_draws_frames(our_cfg, tone_manifest):
    model = SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8, "max_frames": 4}))
    trainer = make_trainer()
    model.set_trainer(trainer)
    model.setup_multiple_test_data({"manifest_filepath": tone_manifest([3.0, 2.5]), "batch_size": 2})
    first, second = (trainer.test(model, verbose=False)[0] for _ in range(2))
    assert first == second
    batch = next(iter(model.test_dataloader()))
    state = torch.get_rng_state()
    model.eval().compute_losses(batch)
    assert torch.equal(state, torch.get_rng_state())


def test_a_resumed_run_equals_an_uninterrupted_one(our_cfg, tone_manifest, tmp_path):
    manifest = tone_manifest([4.0, 5.0, 4.5, 6.0])

    def run(max_epochs, resume=None, callbacks=()):
        torch.manual_seed(11)
        cfg = our_cfg(
            train_ds={"manifest_filepath": manifest, "batch_size": 2, "session_len_sec": 2.0, "seed": 3},
            optim={
                "name": "adamw",
                "lr": 1e-2,
                "sched": {"name": "CosineAnnealing", "warmup_steps": 1, "min_lr": 1e-4},
            },
        )
        trainer = make_trainer(
            max_epochs=max_epochs,
            max_steps=4,
            limit_train_batches=2,
            callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks),
        )
        model = SortformerDiarizer(cfg=cfg, trainer=trainer)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trainer.fit(model, ckpt_path=resume)
        return trainer, model, start

    _, whole, start = run(2)
    _, half, _ = run(1, callbacks=[ModelCheckpoint(tmp_path, filename="half", save_on_train_epoch_end=True)])
    trainer, resumed, _ = run(2, resume=tmp_path / "half.ckpt")
    assert trainer.global_step == 4
    assert not torch.equal(whole.encoder.pre_encode.out.weight, half.encoder.pre_encode.out.weight)
    assert not torch.equal(start["encoder.pre_encode.out.weight"], half.encoder.pre_encode.out.weight)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_lightning_checkpoint_loads_by_itself(our_cfg, tone_manifest, tmp_path, noise_batch):
    trainer = make_trainer(max_steps=1)
    cfg = our_cfg(train_ds={"manifest_filepath": tone_manifest([2.0, 2.0]), "batch_size": 2})
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = SortformerDiarizer.load_from_checkpoint(
        tmp_path / "one.ckpt", map_location="cpu", weights_only=False
    ).eval()
    with torch.no_grad():
        assert_close(again(*noise_batch).probs, model.eval()(*noise_batch).probs, rtol=0, atol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_part_of_weight_zero_is_not_computed(our_cfg, monkeypatch, weight):
    calls = []

    def assignment(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    import nemo_sortformer.functional.losses as losses

    original = losses.best_assignment
    monkeypatch.setattr(losses, "best_assignment", assignment)
    loss = {"sort_weight": 1.0, "pil_weight": weight, "layer_weight": 0.0}
    model = SortformerDiarizer(cfg=our_cfg(loss=loss, affinity={"dim": 8, "weight": weight}))
    batch = (torch.randn(2, 16000), torch.tensor([16000, 12000]), torch.rand(2, 13, 3).round(), torch.tensor([13, 10]))
    _, parts, _ = model.compute_losses(batch)
    assert set(parts) == ({"sort", "pil", "affinity"} if weight else {"sort"})
    assert bool(calls) == bool(weight)


def test_every_parameter_that_trains_gets_a_gradient(our_cfg):
    # Else several devices would wait for it, or would have to search for it at each step.
    for layer_weight in (0.0, 0.2):
        model = SortformerDiarizer(cfg=our_cfg(affinity={"dim": 8}, loss={"layer_weight": layer_weight}))
        targets = torch.zeros(2, 13, 3)
        targets[:, :5, 0], targets[:, 6:, 1] = 1, 1
        batch = (torch.randn(2, 16000), torch.tensor([16000, 16000]), targets, torch.tensor([13, 13]))
        model.compute_losses(batch)[0].backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
    assert isinstance(model.transformer_encoder, SortformerEncoder)


def spoil_step(model, number):
    """Give the encoder's output an infinity in one training step, as an overflow in float16 does."""
    calls = []

    def hook(module, args, kwargs, output):
        calls.append(None)
        features, lengths = output
        return (features.clone().fill_(float("inf")), lengths) if len(calls) == number else None

    model.encoder.register_forward_hook(hook, with_kwargs=True)


def test_an_overflow_in_float16_skips_the_step_and_training_goes_on(our_cfg, tone_manifest):
    cfg = our_cfg(
        affinity={"dim": 8},
        loss={"layer_weight": 0.2, "tie_tolerance": 1},
        train_ds={"manifest_filepath": tone_manifest([2.0, 2.0, 2.0]), "batch_size": 1},
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer = make_trainer(max_steps=3, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    spoil_step(model, 2)
    trainer.fit(model)
    assert trainer.global_step == 3
    assert scaler.get_scale() == 32.0
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_without_a_scaler_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(our_cfg, tone_manifest):
    cfg = our_cfg(train_ds={"manifest_filepath": tone_manifest([2.0, 2.0]), "batch_size": 1})
    trainer = make_trainer(max_steps=2)
    model = SortformerDiarizer(cfg=cfg, trainer=trainer)
    spoil_step(model, 2)
    with pytest.raises(ValueError, match=r"The loss of step 1 is not finite \(sort nan, .*Lower `optim.lr`"):
        trainer.fit(model)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_supervised_layers_need_an_encoder_with_estimates(our_cfg):
    encoder = {
        "_target_": "nemo_sortformer.modules.TransformerStateEncoder",
        "num_layers": 1,
        "hidden_size": 16,
        "inner_size": 32,
        "num_attention_heads": 2,
    }
    model = SortformerDiarizer(cfg=our_cfg(transformer_encoder=encoder))
    batch = (torch.randn(1, 16000), torch.tensor([16000]), torch.zeros(1, 13, 3), torch.tensor([13]))
    with pytest.raises(ConfigError, match="`model.loss.layer_weight` needs a state encoder"):
        model.compute_losses(batch)


def test_targets_of_another_frame_rate_are_refused(our_cfg):
    model = SortformerDiarizer(cfg=our_cfg())
    batch = (torch.randn(1, 16000), torch.tensor([16000]), torch.zeros(1, 25, 3), torch.tensor([25]))
    with pytest.raises(ValueError, match="13 frames for audio with 25 frames of targets"):
        model.compute_losses(batch)


@pytest.mark.parametrize("subsampling", [4, 8])
def test_any_frame_rate_of_the_encoder_trains(our_cfg, tone_manifest, subsampling):
    cfg = our_cfg(train_ds={"manifest_filepath": tone_manifest([2.03, 3.1]), "batch_size": 2})
    cfg.encoder.subsampling_factor = subsampling
    trainer = make_trainer(max_steps=1)
    trainer.fit(SortformerDiarizer(cfg=cfg, trainer=trainer))
    assert trainer.global_step == 1


def test_data_of_another_sample_rate_or_with_a_misspelt_key_are_refused(our_cfg, tone_manifest):
    manifest = tone_manifest([1.0])
    with pytest.raises(
        ConfigError, match="`model.train_ds.sample_rate` must be that of the model, 16000, but is 8000"
    ):
        SortformerDiarizer(cfg=our_cfg(train_ds={"manifest_filepath": manifest, "sample_rate": 8000}))
    with pytest.raises(ConfigError, match="`model.train_ds.bach_size`.*Did you mean `batch_size`"):
        SortformerDiarizer(cfg=our_cfg(train_ds={"manifest_filepath": manifest, "bach_size": 8}))


def test_cuts_with_a_schedule_need_a_number_of_steps(our_cfg, tone_manifest):
    source = {"manifest_filepath": tone_manifest([2.0]), "use_lhotse": True}
    optim = {"name": "adamw", "lr": 1e-3, "sched": {"name": "CosineAnnealing", "warmup_steps": 1}}
    with pytest.raises(ConfigError, match="`trainer.max_steps` must be set with lhotse cuts"):
        SortformerDiarizer(cfg=our_cfg(train_ds=source, optim=optim), trainer=make_trainer(max_epochs=2))
    optim["sched"]["max_steps"] = 10
    SortformerDiarizer(cfg=our_cfg(train_ds=source, optim=optim), trainer=make_trainer(max_epochs=2))


def test_nemos_form_of_the_data_settings_is_understood(our_cfg, tone_manifest):
    model = SortformerDiarizer(cfg=our_cfg())
    model.setup_training_data(
        {
            "manifest_filepath": tone_manifest([2.0, 2.0]),
            "sample_rate": 16000,
            "num_spks": 3,
            "session_len_sec": -1,
            "labels": None,
            "batch_size": 2,
            "validation_mode": False,
            "use_lhotse": False,
        }
    )
    assert next(iter(model.train_dataloader()))[0].shape == (2, 32000)
