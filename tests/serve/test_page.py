# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser, which hears a WAV as its microphone; and what the page may load."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="no web server: pip install 'nemo_sortformer[serve]'")
pytest.importorskip("websockets", reason="no WebSocket client: pip install 'nemo_sortformer[serve]'")

from websockets.sync.client import connect  # noqa: E402

from nemo_sortformer.data.synthesis import synthesize_conversation  # noqa: E402
from nemo_sortformer.serve.app import _page_headers  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = files("nemo_sortformer.serve").joinpath("page.html").read_text(encoding="utf-8")
SECONDS = 120
PART_SECONDS = 13


def test_the_page_loads_nothing_from_elsewhere():
    assert not re.findall(r"https?://|//cdn|@import|src=\"[^\"]", PAGE)
    policy = _page_headers(PAGE)["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert not re.findall(r"\son\w+=|\sstyle=", PAGE.partition("<script>")[0]), "the policy forbids both"


@contextlib.contextmanager
def server():
    """The command as a process, with the shipped model; gives its address and the process."""
    command = [sys.executable, "-m", "nemo_sortformer", "serve", "--port", "0", "--device", "cpu", "--latency", "1.04"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert select.select([process.stdout], [], [], SECONDS)[0], "no answer"
        line = process.stdout.readline()
        assert "Listening at http://127.0.0.1:" in line, line + (process.stderr.read() if process.poll() else "")
        yield re.search(r"http://\S+", line)[0], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Tab:
    """One page of a headless browser, driven by its debugging protocol."""

    def __init__(self, address, folder):
        deadline, port_file = time.monotonic() + SECONDS, folder / "DevToolsActivePort"
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?{address}", method="PUT")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            self.socket = connect(json.load(answer)["webSocketDebuggerUrl"], max_size=None)
        self.number, self.events = 0, []
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """One command and its answer; events on the way are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(timeout=SECONDS))).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def run(self, script):
        """The value of a script, run as if the user had clicked."""
        answer = self.ask("Runtime.evaluate", expression=script, userGesture=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script):
        """Until a script is true."""
        deadline = time.monotonic() + SECONDS
        while not self.run(script):
            said = self.run("document.getElementById('alert')?.textContent")  # none while the page is being read
            assert not said, said
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.2)

    def picture(self, name):
        """Save a screenshot where `NEMO_SORTFORMER_PICTURES` says, if it does."""
        if folder := os.environ.get("NEMO_SORTFORMER_PICTURES"):
            import base64

            data = self.ask("Page.captureScreenshot", format="png")["data"]
            (type(files("nemo_sortformer"))(folder) / name).write_bytes(base64.b64decode(data))

    def problems(self):
        """What the browser complains of."""
        self.run("1")
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [event for event in self.events if event["method"] in kinds]


@contextlib.contextmanager
def browser(address, folder, wav, *, width=1100):
    """A tab on the page; the browser's microphone plays `wav`, again and again."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={width},900", "--mute-audio",
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}", "--autoplay-policy=no-user-gesture-required", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Tab(address, folder)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


@pytest.fixture
def conversation(tmp_path):
    """A WAV of three voices at the rate of most microphones, and its truth."""
    import soxr

    audio, truth, _ = synthesize_conversation(seed=3, num_speakers=3, seconds=24)
    path = tmp_path / "talk.wav"
    soundfile.write(path, soxr.resample(np.asarray(audio, dtype=np.float32), 16000, 48000), 48000, subtype="PCM_16")
    return path, truth


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium")
def test_a_browser_streams_its_microphone_and_a_file(conversation, tmp_path):
    wav, truth = conversation
    part = tmp_path / "part.wav"
    samples, rate = soundfile.read(wav)
    soundfile.write(part, samples[: PART_SECONDS * rate], rate)
    with server() as (address, process), browser(address, tmp_path / "profile", wav) as tab:
        tab.wait("document.readyState === 'complete' && document.body.dataset.state === 'idle'")
        tab.run("document.getElementById('mic').click()")
        tab.wait("document.body.dataset.state === 'running'")
        tab.wait("document.querySelectorAll('.chip').length > 0")
        tab.wait("new Set(shown.finished.map((turn) => turn[2])).size >= 3 && shown.seconds > 12")
        tab.picture("microphone.png")
        drawn = tab.run(
            "(() => { const c = document.getElementById('line'); const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; const found = new Set();"
            "for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255)"
            " found.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);"
            "return shown.ready.colors.slice(0, 3).filter((c) => found.has(parseInt(c.slice(1), 16))).length; })()"
        )
        assert drawn == 3, "each speaker has its colour in the timeline"
        tab.run("document.getElementById('stop').click()")
        tab.wait("document.body.dataset.state === 'idle'")
        assert tab.run("shown.changed.length") == 0, "all is finished"
        assert tab.run("Math.abs(shown.sent - shown.seconds)") < 0.1, "all that was heard was answered"
        rows = tab.run("document.querySelectorAll('#rows tr').length")
        assert rows == tab.run("shown.finished.length") >= 3

        document = tab.ask("DOM.getDocument")["root"]["nodeId"]
        node = tab.ask("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        tab.ask("DOM.setFileInputFiles", nodeId=node, files=[str(part)])
        tab.wait("document.body.dataset.state === 'running'")
        tab.wait("document.body.dataset.state === 'idle' && shown.seconds > 10")
        tab.picture("file.png")
        found = tab.run("shown.finished")
        assert tab.run("shown.seconds") == pytest.approx(PART_SECONDS, abs=1.0)
        total = sum(max(min(segment.end, PART_SECONDS) - segment.start, 0) for segment in truth)
        assert sum(end - start for start, end, _ in found) == pytest.approx(total, rel=0.25)
        assert len({speaker for _, _, speaker in found}) == 3

        tab.run("document.getElementById('mic').click()")
        tab.wait("shown.seconds > 1")
        process.send_signal(signal.SIGTERM)
        tab.run("new Promise((done) => setTimeout(done, 1))")
        deadline = time.monotonic() + SECONDS
        while "The server has stopped" not in (said := tab.run("document.getElementById('alert').textContent")):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        tab.picture("stopped.png")
        assert process.wait(SECONDS) == 0
        assert not tab.problems()
