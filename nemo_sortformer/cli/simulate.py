# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer simulate`: mix conversations out of single-speaker recordings, with their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_sortformer.cli.console import Verbose, command, out

_SECONDS = 60.0


def simulate(
    manifest: Annotated[
        Path,
        typer.Argument(help="Single-speaker recordings; its lines have a `speaker`. `-`: the voices of --config."),
    ],
    output_dir: Annotated[Path, typer.Argument(help="Where audio, RTTM and manifest.jsonl go.")],
    count: Annotated[int, typer.Option(help="How many conversations.")] = 10,
    seconds: Annotated[
        float | None, typer.Option(help="Length of each, seconds. Default: that of --config, or 60.")
    ] = None,
    speakers: Annotated[int | None, typer.Option(help="Voices in each mixed one. Default: one to four.")] = None,
    split: Annotated[str | None, typer.Option(help="Take only the lines whose `split` is this.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with keys of MixingConfig; the options above win.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same conversations.")] = 0,
    audio_format: Annotated[str, typer.Option(help="flac or wav.")] = "flac",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that has a manifest.")] = False,
    verbose: Verbose = False,
) -> None:
    """Mix conversations with turns, pauses, overlap, rooms and noise, and write them with their RTTM."""
    with command(verbose=verbose):
        if count < 1 or (seconds is not None and seconds <= 0) or (speakers is not None and speakers < 1):
            raise ValueError(
                f"`count`, `seconds` and `speakers` must be above 0, but are {count}, {seconds} and {speakers}."
            )
        if (output_dir / "manifest.jsonl").exists() and not overwrite:
            raise ValueError(f"`{output_dir / 'manifest.jsonl'}` is there already. Add `--overwrite` to replace it.")
        from nemo_sortformer.config.merge import from_cfg
        from nemo_sortformer.config.mixing import MixingConfig
        from nemo_sortformer.data.mixing.dataset import build_pool, write_conversations

        settings = {"session_seconds": _SECONDS, **_read_settings(config)}
        if str(manifest) != "-":
            settings["manifest"] = str(manifest)
        if seconds is not None:
            settings["session_seconds"] = seconds
        if split is not None:
            settings["split"] = split
        if speakers is not None:
            settings["speaker_count_weights"] = [0.0] * (speakers - 1) + [1.0]
        mixing = from_cfg(MixingConfig, settings)
        pool = build_pool(mixing)
        written = write_conversations(pool, mixing, output_dir, count=count, seed=seed, audio_format=audio_format)
        out().print(f"{written}: {count} conversations of {mixing.session_seconds:g} s.", markup=False)


def _read_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"{path}: must hold `key: value` lines with keys of MixingConfig, but is {settings!r:.60}.")
    return settings or {}
