# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The Python blocks of the pages on streams, long recordings and export run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(page, number, block, id=f"{page}, block {number}")
    for page in ("streaming.md", "streaming_models.md", "long_audio.md", "export.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL), 1
    )
]
SERVE = "import sys; from nemo_sortformer.cli import main; sys.argv[1:] = ['serve', '--port', '0']; sys.exit(main())"


@pytest.mark.slow
@pytest.mark.parametrize("page, number, block", BLOCKS)
def test_the_block_runs(page, number, block, make_audio, tmp_path, monkeypatch, request, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("meeting.wav", make_audio(3.0), 16_000)
    for package in ("onnxruntime", "websockets"):
        if f"import {package}" in block or f", {package}" in block:
            pytest.importorskip(package)
    if "127.0.0.1:8765" in block:
        block = block.replace("127.0.0.1:8765", request.getfixturevalue("server"))
    exec(compile(block, f"{page}, block {number}", "exec"), {"__name__": "page"})


@pytest.fixture
def server():
    """The address of the server, as the page starts it."""
    pytest.importorskip("starlette")
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            found = re.search(r"http://([\d.]+:\d+)/", line)
            if found:
                yield found[1]
                break
        else:
            pytest.fail("the server did not start")
    finally:
        process.terminate()
        process.wait(timeout=60)
