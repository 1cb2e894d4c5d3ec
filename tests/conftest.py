# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Shared by all tests: the Hypothesis profile, the optional speech data, the order of the tests, a quiet NeMo."""

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
MEMORY_PER_WORKER = 5e9
"""Bytes that one test process may need: NeMo and torch take 1.5 GB, the published-size model and its twin the rest."""

settings.register_profile("nemo_sortformer", deadline=None, derandomize=True)  # torch's first call is slow
settings.load_profile("nemo_sortformer")


def speech_folder() -> Path | None:
    """Find the real speech: the folder ``NEMO_SORTFORMER_SPEECH`` names, else ``../shared/data``, else nothing."""
    named = os.environ.get("NEMO_SORTFORMER_SPEECH")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "pool" / "manifest.jsonl").is_file() else None


NO_SPEECH = "no real speech: set NEMO_SORTFORMER_SPEECH to a folder with pool/, sessions/ and conversations/"


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real speech; tests that ask for it are skipped where it is absent."""
    folder = speech_folder()
    assert folder is not None, NO_SPEECH
    return folder


def pytest_configure(config):
    """One thread per test process (several run side by side), no pictures on a screen, no download."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_onelogger_off_the_disk()


def keep_onelogger_off_the_disk():
    """Send the two log files that NeMo's telemetry opens in the working directory to the null device."""
    open_file = logging.FileHandler.__init__

    def init(self, filename, *args, **kwargs):
        name = os.path.basename(os.fspath(filename))
        open_file(self, os.devnull if name in ("onelogger.log", "onelogger.err") else filename, *args, **kwargs)

    logging.FileHandler.__init__ = init


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Give torch one thread: threads that fight for the cores of the other test process slow both down."""
    import torch

    torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """Two test processes where there are two cores and memory for two NeMos, else one after another."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if not kilobytes or len(os.sched_getaffinity(0)) < 2 or kilobytes[0] * 1024 < 2 * MEMORY_PER_WORKER:
        return 0
    return 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Fast tests first, slow ones last; a file's tests of one pace stay in one process (``--dist loadgroup``)."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    no_speech = pytest.mark.skipif(speech_folder() is None, reason=NO_SPEECH)
    no_gpu = pytest.mark.skipif(not has_gpu(items), reason="no CUDA device")
    for item in items:
        if "speech_data" in getattr(item, "fixturenames", ()):
            item.add_marker(no_speech)
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)
        if item.get_closest_marker("xdist_group") is None:
            pace = ":slow" if item.get_closest_marker("slow") else ""
            item.add_marker(pytest.mark.xdist_group(f"{item.path.relative_to(ROOT)}{pace}"))


def has_gpu(items) -> bool:
    """Ask torch for a CUDA device, only if a test is marked ``gpu``."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return False
    import torch

    return torch.cuda.is_available()
