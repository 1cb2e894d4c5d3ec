# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Train a diarizer on recordings with RTTM files, lhotse cuts, or conversations mixed on the fly.

    python examples/train_diarizer.py --config-name=diarizer_test model.train_ds.manifest_filepath=train.jsonl

needs a CPU and a minute. On two cores, out of a manifest of single speakers:

    python examples/train_diarizer.py --config-name=diarizer_tiny \
        'model.train_ds.mixing={manifest: pool.jsonl}' \
        model.validation_ds.manifest_filepath=dev.jsonl exp_manager.exp_dir=experiments

Checkpoints, TensorBoard logs and the final `.nemo` go to `<exp_dir>/<name>`; the same command again resumes.
`init_from_nemo_model=asr.nemo` starts the acoustic encoder from a NeMo model of the same sizes.
"""

from lightning.pytorch import Trainer, seed_everything
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf

from nemo_sortformer import SortformerDiarizer


@hydra_runner(config_path="../configs", config_name="diarizer_tiny")
def main(cfg: DictConfig) -> None:
    """Train, then test where there are test data."""
    logging.info(f"Settings:\n{OmegaConf.to_yaml(cfg)}")
    seed_everything(cfg.get("seed", 0), workers=True)
    trainer = Trainer(**resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.get("exp_manager"))
    model = SortformerDiarizer(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)
    if model.test_dataloader():
        trainer.test(model)


if __name__ == "__main__":
    main()
