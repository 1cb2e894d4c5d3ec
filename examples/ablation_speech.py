# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Compare state encoders on real speech: the same acoustic frames, the same steps, three seeds, DER on other speakers.

    python examples/ablation_speech.py speech=../shared/data out=ablation_speech

About a minute of one core per run, after four minutes of mixing; a stopped command goes on where it was. `speech` is a
folder with pool/manifest.jsonl and sessions/{dev,test}/manifest.jsonl; the systems stand in the YAML.
"""

from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from rich.console import Console

from benchmarks.ablation.grid import finish_grid
from benchmarks.ablation.speech import SpeechAblationConfig, prepare_frames, run_speech
from benchmarks.ablation.speech_report import publish_speech, speech_table, summarize_speech, write_speech_report
from nemo_sortformer.cli.console import quiet_nemo
from nemo_sortformer.config import from_cfg


@hydra_runner(config_path="../configs", config_name="ablation_speech")
def main(cfg: DictConfig) -> None:
    """Make the frames, do what is missing of the grid, write the report."""
    quiet_nemo(verbose=False)
    config = from_cfg(SpeechAblationConfig, cfg)
    frames = prepare_frames(config)
    results = finish_grid(config, work=lambda _, run, on_step: run_speech(config, frames, run, on_step))
    summary = summarize_speech(config, results)
    report = write_speech_report(summary, config.out)
    console = Console(highlight=False)
    console.print(speech_table(summary), markup=False)
    console.print(f"{len(results)} runs. Report: {report}", markup=False)
    if config.publish is not None:
        publish_speech(summary, config.publish)


if __name__ == "__main__":
    main()
