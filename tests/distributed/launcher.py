# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One of several processes of a test: sets up its surroundings as torchrun does, and runs a script."""

import os
import runpy
import sys
import traceback


def run(script: str, environment: dict[str, str], arguments: list[str], log: str) -> None:
    """Run `script` with `environment`, all output to the file `log`; ends the process with 0, or 1 after an error."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    code = 0
    try:
        import torch

        torch.set_num_threads(1)
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for the peers of a process group


run(**LAUNCH)  # noqa: F821 - given by the parent process
