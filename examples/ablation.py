# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Put the paper's claims to the test: every system, every loss, several seeds, one made task, on one CPU core.

    python examples/ablation.py --config-name=ablation_quick                 # a few minutes, one seed, fewer steps
    python examples/ablation.py --config-name=ablation out=ablation          # about an hour
    python examples/ablation.py --config-name=ablation out=ablation publish=docs

Each finished run is one JSON in `out`; the same command goes on after the last one. Tables and plots go to
`<out>/report`, and say so in every place where runs are missing. `publish` writes docs/ablation.json, the tables of
docs/claims.md and docs/images/ablation_*.png, and refuses where anything is missing. A new encoder is one more entry
of `systems` in the YAML, with any `_target_`.
"""

from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from rich.console import Console

from benchmarks.ablation.grid import finish_grid
from benchmarks.ablation.publish import publish, write_report
from benchmarks.ablation.settings import AblationConfig
from benchmarks.ablation.summary import summarize
from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.config import from_cfg


@hydra_runner(config_path="../configs", config_name="ablation")
def main(cfg: DictConfig) -> None:
    """Do what is missing of the grid, then write the report."""
    quiet_nemo(verbose=False)
    config = from_cfg(AblationConfig, cfg)
    results = finish_grid(config)
    summary = summarize(config, results)
    report = write_report(summary, config.out)
    Console(highlight=False).print(f"{len(results)} runs. Report: {report}", markup=False)
    if config.publish is not None:
        publish(summary, config.publish)


if __name__ == "__main__":
    main()
