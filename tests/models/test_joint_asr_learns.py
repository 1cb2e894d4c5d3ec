# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The joint model learns: four sessions of two speakers, some words at once, without an error at the end."""

import json

import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_sortformer import SortformerJointASR
from nemo_sortformer.metrics.cpwer import ConcatenatedPermutationWER
from nemo_sortformer.models.joint_asr import decode
from tests.models import joint_sessions
from tests.models.conftest import FRONT_END, conformer

STEPS = 150


def silence(seed, seconds):
    """Noise in which nobody says a word; another one for each seed."""
    return 0.003 * torch.randn(seconds * 16000, generator=torch.Generator().manual_seed(seed)).numpy(), []


@pytest.fixture(scope="module")
def trained(word_tokenizer):
    """A model of two text heads after training on four sessions, and the sessions."""
    torch.manual_seed(0)
    small = {"num_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    cfg = {
        "max_num_of_spks": 3,
        "preprocessor": dict(FRONT_END),
        "encoder": conformer(d_model=48, subsampling="stacking_norm"),
        "transformer_encoder": {
            "_target_": "nemo_sortformer.modules.SortformerEncoder",
            "num_layers": 2,
            "hidden_size": 48,
            "inner_size": 96,
            "num_attention_heads": 2,
            "conv_kernel": 7,
            "dropout": 0.0,
        },
        "sortformer_modules": {"dropout_rate": 0.0},
        "loss": {"sort_weight": 1.0, "pil_weight": 0.0, "layer_weight": 0.2},
        "speaker_kernel": {"labels": "mixed", "true_share_end": 1.0},
        "text": {
            "streams": {
                "kind": "ctc_streams",
                "tokenizer": word_tokenizer,
                "decoder": small | {"upsample": 2, "least_prior": 0.01},
            },
            "words": {"kind": "aed", "tokenizer": word_tokenizer, "decoder": small},
        },
    }
    model = SortformerJointASR(cfg=OmegaConf.create(cfg)).train()
    sessions = [joint_sessions.session(seed) for seed in range(4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 20)
        optimizer.zero_grad()
        batch = joint_sessions.batch([*sessions, silence(step, 5)], model.tokenizers)
        model.compute_losses(batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), sessions


@pytest.mark.slow
@pytest.mark.parametrize("head", ["streams", "words"])
def test_four_sessions_are_learnt_to_the_last_word(trained, head):
    model, sessions = trained
    batch = joint_sessions.batch(sessions, model.tokenizers)
    _, found = model.write_down(batch.audio, batch.audio_lengths, head=head)
    metric = ConcatenatedPermutationWER(as_is=True)
    metric.update([joint_sessions.texts(words) for _, words in sessions], [decode.texts_of_slots(w, 3) for w in found])
    assert float(metric.compute()) == 0.0
    assert int(metric.counts[1]) == 20
    for (_, words), said in zip(sessions, found):  # times too, by the frames of the answers or of the labels
        for word in words:
            near = [one for one in said if (one.text, one.speaker) == (word.text, word.speaker)]
            assert min(abs(one.start - word.start) for one in near) < 0.8


@pytest.mark.slow
def test_transcripts_carry_speakers_and_times_and_silence_has_none(trained, tmp_path):
    model, sessions = trained
    for number, (audio, _) in enumerate(sessions):
        soundfile.write(tmp_path / f"session_{number}.wav", audio, 16000)
    soundfile.write(tmp_path / "silence.wav", silence(STEPS, 30)[0], 16000)
    names = [tmp_path / f"session_{number}.wav" for number in range(4)] + [tmp_path / "silence.wav"]
    transcripts = model.transcribe_sessions(names, batch_size=3)
    for (_, words), transcript in zip(sessions, transcripts):
        said = transcript.texts_by_speaker()
        assert [said.get(f"speaker_{slot}", "") for slot in range(3)] == joint_sessions.texts(words)
        assert transcript.diarization is not None
    assert transcripts[4].words == ()
    assert transcripts[4].recording == "silence"


@pytest.mark.slow
def test_training_as_users_start_it_logs_each_loss_and_the_wrong_words(joint_cfg, tmp_path):
    from lightning.pytorch import Trainer

    lines = []
    for number in range(4):
        audio, words = joint_sessions.session(number)
        soundfile.write(tmp_path / f"{number}.wav", audio, 16000)
        rows = [
            {
                "session_id": str(number),
                "speaker": f"s{word.speaker}",
                "start_time": word.start,
                "end_time": word.end,
                "words": word.text,
            }
            for word in words
        ]
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
        entry = {
            "audio_filepath": f"{number}.wav",
            "duration": len(audio) / 16000,
            "seglst_filepath": f"{number}.json",
        }
        lines.append(json.dumps(entry))
    manifest = tmp_path / "four.jsonl"
    manifest.write_text("\n".join(lines))
    data = {"manifest_filepath": str(manifest), "batch_size": 2}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    model = SortformerJointASR(
        cfg=joint_cfg(train_ds=data, validation_ds=data, max_decoded_batches=1), trainer=trainer
    )
    trainer.fit(model)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name in ("streams", "words", "plain", "moved"):
        assert logged[f"train_loss_{name}"] > 0
        assert logged[f"val_loss_{name}"] > 0
    assert {"val_cpwer", "val_cpwer_words", "val_cpwer_plain", "val_cpwer_moved", "val_der"} <= set(logged)
    assert logged["train_streams_left_out"] == 0.0
    weights = model.loss_weights()
    assert sum(weights[name] * logged[f"val_loss_{name}"] for name in weights) == pytest.approx(logged["val_loss"])
