# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Starts the processes of a test out of one that has imported NeMo already, so that each starts in a blink."""

import multiprocessing
import os
import runpy
import socket
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
PRELOAD = ["torch", "nemo_sortformer.distributed.strategy", "nemo_sortformer.models.diarizer"]


def free_port() -> int:
    """A port that nobody listens to right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """Processes of one launch."""

    def __init__(self, processes, logs):
        self.processes, self.logs = processes, logs

    def wait(self, timeout=900.0):
        """Wait for all; the exit codes, None for a process that did not end in time and was killed."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        return codes

    def output(self):
        """What all processes wrote."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-30000:]}" for log in self.logs)


@pytest.fixture(scope="session")
def start_processes(tmp_path_factory):
    """Start `count` processes of a script in workers/, as torchrun would; gives a :class:`Run`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def start(script, count, arguments=(), **environment):
        folder = tmp_path_factory.mktemp(Path(script).stem)
        port = str(environment.pop("MASTER_PORT", free_port()))
        processes, logs = [], []
        for rank in range(count):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            variables = {name: str(value) for name, value in ranks.items()}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
            logs.append(folder / f"rank_{rank}.log")
            launch = {
                "script": str(FOLDER / "workers" / script),
                "environment": variables | {name: str(value) for name, value in environment.items()},
                "arguments": [str(argument) for argument in arguments],
                "log": str(logs[-1]),
            }
            process = context.Process(
                target=runpy.run_path,
                args=(str(FOLDER / "launcher.py"),),
                kwargs={"init_globals": {"LAUNCH": launch}, "run_name": "launcher"},
            )
            process.start()
            processes.append(process)
        return Run(processes, logs)

    return start


@pytest.fixture(scope="session")
def run_processes(start_processes, tmp_path_factory):
    """Run a script in several processes to its end, all of which must succeed; what process 0 saved as its result."""

    def run(script, count, *arguments, timeout=900.0, **environment):
        result = tmp_path_factory.mktemp("result") / "result.pt"
        processes = start_processes(script, count, [result, *arguments], **environment)
        codes = processes.wait(timeout)
        assert codes == [0] * count, f"exit codes {codes}\n{processes.output()}"
        return torch.load(result, weights_only=False)

    return run
