# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The command line `nemo-sortformer`, one file per command.

Commands import torch and NeMo inside their functions, so that `--help` answers at once.
"""

import typer

from nemo_sortformer.cli import (
    demo,
    diarize,
    env,
    export,
    inspect,
    label,
    plan,
    score,
    serve,
    simulate,
    stream,
    transcribe,
    validate,
)

app = typer.Typer(
    name="nemo-sortformer",
    help="Say who spoke when, with SortFormer models in NVIDIA NeMo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("diarize")(diarize.diarize)
app.command("transcribe")(transcribe.transcribe)
app.command("stream")(stream.stream)
app.command("serve")(serve.serve)
app.command("label")(label.label)
app.command("inspect")(inspect.inspect)
app.command("score")(score.score)
app.command("validate")(validate.validate)
app.command("simulate")(simulate.simulate)
app.command("plan")(plan.plan)
app.command("demo")(demo.demo)
app.command("export")(export.export)
app.command("env")(env.env)


def main() -> None:
    """Run the command that the arguments name."""
    app()
