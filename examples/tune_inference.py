# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Choose the inference settings of a diarizer on recordings whose speakers are known, and write them into its file.

    python examples/tune_inference.py --model x.nemo --manifest dev.jsonl --out y.nemo

The network runs once per recording. Then one setting after the other (how embeddings are clustered, thresholds,
shortest speech and pauses) takes the value with the lowest DER, averaged with its neighbours', until none changes.
With several `--manifest` the mean of their DERs counts. Lines with a `uem_filepath`, or `offset` and `duration`, are
scored only there.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nemo_sortformer.cli.console import quiet, quiet_nemo


def main() -> None:
    """Run the network, search, say what each setting is worth, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .nemo file; without it the shipped one")
    parser.add_argument("--manifest", type=Path, action="append", required=True, help="may be given several times")
    parser.add_argument("--split", action="append", default=[], help="leave out manifest lines of any other split")
    parser.add_argument("--out", type=Path, required=True, help="where the .nemo file with the chosen settings goes")
    parser.add_argument("--assignment", choices=["heads", "clustering"], help="instead of the model's own")
    parser.add_argument("--collar", type=float, default=0.25, help="seconds unscored around each true boundary")
    parser.add_argument("--skip-overlap", action="store_true", help="score only where one true speaker talks")
    options = parser.parse_args()
    quiet(verbose=False)
    quiet_nemo(verbose=False)
    from nemo_sortformer.data.manifest import read_manifest
    from nemo_sortformer.inference.checkpoint import load_model
    from nemo_sortformer.inference.score import Condition
    from nemo_sortformer.inference.settings import inference_settings
    from nemo_sortformer.inference.tune import GRIDS, Objective, Search, run_network, save_with

    condition = Condition(options.collar, options.skip_overlap)
    model = load_model(options.model)
    given = {"assignment": options.assignment} if options.assignment else None
    start = inference_settings(model.config.inference, override=given)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("Network", total=sum(len(read_manifest(path)) for path in options.manifest))
        sets = [
            run_network(
                model, path, condition=condition, config=start, splits=options.split, advance=lambda: bar.advance(task)
            )
            for path in options.manifest
        ]
        task = bar.add_task("Search", total=None)
        lowest = [float("inf")]

        def on_trial(setting: str, value: float, rate: float) -> None:
            lowest[0] = min(lowest[0], rate)
            bar.update(task, advance=1, description=f"Search: {setting}, DER {100 * lowest[0]:.2f} %")

        found = Search(Objective(sets, model.frame_seconds), start, GRIDS, on_trial=on_trial).run()

    table = Table("setting", "was", "chosen", "worth", "DER % by value", title=f"Settings ({condition})")
    for trial in found.trials:
        rates = "  ".join(f"{value:g}: {100 * rate:.1f}" for value, rate in trial.rates.items())
        table.add_row(trial.setting, f"{trial.start:g}", f"{trial.chosen:g}", f"{100 * trial.worth:.2f}", rates)
    errors = Table("manifest", "DER % before", "after", "missed", "false alarm", "confusion", title="Errors")
    for path, before, after in zip(options.manifest, found.before, found.after, strict=True):
        parts = [part / after.speech for part in (after.missed, after.false_alarm, after.confusion)]
        cells = [f"{100 * rate:.2f}" for rate in (before.der, after.der, *parts)]
        errors.add_row(f"{path.resolve().parent.name}/{path.name}", *cells)
    console = Console(highlight=False, width=None if Console().is_terminal else 140)
    console.print(table, errors)
    save_with(model, found.config, options.out)
    console.print(f"Saved {options.out}", markup=False)


if __name__ == "__main__":
    main()
