# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer simulate`: mix conversations out of single-speaker recordings, with their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, out


def simulate(
    manifest: Annotated[Path, typer.Argument(help="Single-speaker recordings; its lines have a `speaker`.")],
    output_dir: Annotated[Path, typer.Argument(help="Where audio, RTTM and manifest.jsonl go.")],
    count: Annotated[int, typer.Option(help="How many conversations.")] = 10,
    seconds: Annotated[float, typer.Option(help="Length of each, seconds.")] = 60.0,
    speakers: Annotated[int | None, typer.Option(help="Voices in each. Default: one to four.")] = None,
    split: Annotated[str | None, typer.Option(help="Take only the lines whose `split` is this.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with keys of MixingConfig; the options above win.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same conversations.")] = 0,
    audio_format: Annotated[str, typer.Option(help="flac or wav.")] = "flac",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that has a manifest.")] = False,
    verbose: Verbose = False,
) -> None:
    """Mix conversations with turns, pauses, overlap, rooms and noise, and write them with their RTTM."""
    with command(verbose=verbose):
        if count < 1 or seconds <= 0 or (speakers is not None and speakers < 1):
            raise ValueError(
                f"`count`, `seconds` and `speakers` must be above 0, but are {count}, {seconds} and {speakers}."
            )
        if (output_dir / "manifest.jsonl").exists() and not overwrite:
            raise ValueError(f"`{output_dir / 'manifest.jsonl'}` is there already. Add `--overwrite` to replace it.")
        import yaml

        from nemo_sortformer.config.merge import from_cfg
        from nemo_sortformer.config.mixing import MixingConfig
        from nemo_sortformer.data.mixing.dataset import write_conversations
        from nemo_sortformer.data.mixing.manifest_pool import pool_from_manifest

        settings = {} if config is None else yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        settings = {**settings, "manifest": str(manifest), "session_seconds": seconds}
        if split is not None:
            settings["split"] = split
        if speakers is not None:
            settings["speaker_count_weights"] = [0.0] * (speakers - 1) + [1.0]
        mixing = from_cfg(MixingConfig, settings)
        pool = pool_from_manifest(
            manifest,
            split=mixing.split,
            exclude_sources=mixing.exclude_sources,
            min_seconds=mixing.min_utterance_seconds,
        )
        written = write_conversations(pool, mixing, output_dir, count=count, seed=seed, audio_format=audio_format)
        out().print(f"{written}: {count} conversations of {seconds:g} s.", markup=False)
