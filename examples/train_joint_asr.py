# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Train a model that says who said what, when, on recordings with words, or on sessions mixed on the fly.

    python examples/train_joint_asr.py --config-name=joint_asr_test tokenizer_dir=tokenizer \
        model.train_ds.manifest_filepath=train.jsonl

needs a CPU and a minute. On two cores, out of a manifest of single speakers with text:

    python examples/train_joint_asr.py --config-name=joint_asr_tiny tokenizer_dir=tokenizer \
        'model.train_ds.utterances={manifest: pool.jsonl}' \
        model.validation_ds.manifest_filepath=dev.jsonl exp_manager.exp_dir=experiments \
        init_from_nemo_model=nemo_sortformer/checkpoints/sortformer_tiny.nemo

Checkpoints, TensorBoard logs and the final `.nemo` go to `<exp_dir>/<name>`; the same command again resumes.
"""

from lightning.pytorch import Trainer, seed_everything
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf

from nemo_sortformer import SortformerJointASR


@hydra_runner(config_path="../configs", config_name="joint_asr_tiny")
def main(cfg: DictConfig) -> None:
    """Train, then test where there are test data."""
    logging.info(f"Settings:\n{OmegaConf.to_yaml(cfg)}")
    seed_everything(cfg.get("seed", 0), workers=True)
    trainer = Trainer(**resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.get("exp_manager"))
    model = SortformerJointASR(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)
    if model.test_dataloader():
        trainer.test(model)


if __name__ == "__main__":
    main()
