# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Train a labeler on sequences of embeddings of any kind, with labels of any classes.

    python examples/train_labeler.py model.input_dim=64 model.train_ds.manifest_filepath=train.jsonl \
        model.validation_ds.manifest_filepath=dev.jsonl

where a line of a manifest names the files of one sequence:

    {"embeddings_filepath": "a.npy", "labels_filepath": "a_labels.npy"}

Checkpoints, TensorBoard logs and the final `.nemo` go to `<exp_dir>/<name>`; the same command again resumes.
`init_from_nemo_model=other.nemo` starts from the weights of another labeler.
"""

from lightning.pytorch import Trainer, seed_everything
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf

from nemo_sortformer import SortformerLabeler


@hydra_runner(config_path="../configs", config_name="labeler")
def main(cfg: DictConfig) -> None:
    """Train, then test where there are test data."""
    logging.info(f"Settings:\n{OmegaConf.to_yaml(cfg)}")
    seed_everything(cfg.get("seed", 0), workers=True)
    trainer = Trainer(**resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.get("exp_manager"))
    model = SortformerLabeler(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)
    if model.test_dataloader():
        trainer.test(model)


if __name__ == "__main__":
    main()
