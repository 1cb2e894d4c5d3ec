# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Make what a joint model is trained with out of single speakers with text: a tokenizer, and sessions to measure on.

    python examples/prepare_joint_asr.py manifest=pool.jsonl out_dir=joint_asr_data 'sources=[an4]'

writes `<out_dir>/tokenizer` and, for each of `sets`, a folder with audio, RTTM, SegLST and manifest.jsonl. Training
itself mixes its sessions on the fly, `examples/train_joint_asr.py`.
"""

from pathlib import Path

from nemo.core.config import hydra_runner
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf

from nemo_sortformer.config import UtteranceMixingConfig, from_cfg
from nemo_sortformer.data.mixing import build_spoken_pool, write_sessions
from nemo_sortformer.data.text_tokenizer import manifest_texts, train_text_tokenizer


@hydra_runner(config_path="../configs", config_name="joint_asr_data")
def main(cfg: DictConfig) -> None:
    """Train the tokenizer, then write the sessions."""
    out, sources = Path(cfg.out_dir), list(cfg.sources)
    chosen = cfg.tokenizer
    texts = manifest_texts(cfg.manifest, split=chosen.split, sources=list(chosen.sources) or sources)
    folder = train_text_tokenizer(texts, out / "tokenizer", vocab_size=chosen.vocab_size, kind=chosen.kind)
    logging.info(f"Tokenizer of {len(texts)} texts: {folder}")
    for name, wanted in cfg.sets.items():
        settings = OmegaConf.to_container(cfg.session, resolve=True)
        settings |= {
            "manifest": cfg.manifest,
            "split": wanted.split,
            "sources": sources,
            "speaker_count_weights": [0.0] * (wanted.speakers - 1) + [1.0],
        }
        config = from_cfg(UtteranceMixingConfig, settings, path="session")
        manifest = write_sessions(build_spoken_pool(config), config, out / name, count=wanted.count, seed=cfg.seed)
        logging.info(f"{wanted.count} sessions of {wanted.speakers} speaker(s): {manifest}")


if __name__ == "__main__":
    main()
