# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A real server on a real port: each client gets its own answers, whatever others do, and every end has a reason."""

import asyncio
import contextlib
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="no web server: pip install 'nemo_sortformer[serve]'")
pytest.importorskip("uvicorn", reason="no web server: pip install 'nemo_sortformer[serve]'")
websockets = pytest.importorskip("websockets", reason="no WebSocket client: pip install 'nemo_sortformer[serve]'")

from websockets.asyncio.client import connect  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

from nemo_sortformer.inference.precision import in_precision  # noqa: E402
from nemo_sortformer.inference.stream import BatchedStreamer, Streamer  # noqa: E402
from nemo_sortformer.serve.app import create_app  # noqa: E402
from nemo_sortformer.serve.limits import ServerLimits  # noqa: E402
from nemo_sortformer.serve.server import bind, build_server  # noqa: E402

CONFIG = Path(__file__).parents[2] / "configs" / "diarizer_test.yaml"
LATENCY = {"chunk_len": 12, "chunk_right_context": 1, "fifo_len": 12, "spkcache_len": 24, "spkcache_update_period": 12}
FINISH = json.dumps({"type": "finish"})
SECONDS = 60
"""A test that hangs is a failed one."""


@pytest.fixture(scope="module")
def model():
    """A random tiny model."""
    import torch
    from omegaconf import OmegaConf

    from nemo_sortformer.models.diarizer import SortformerDiarizer

    torch.manual_seed(0)
    return SortformerDiarizer(OmegaConf.load(CONFIG).model).eval()


def pcm(seconds, seed=0, rate=16000):
    """Noise in bursts as 16-bit PCM."""
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.2 * np.random.default_rng(seed).standard_normal(len(time)) * (np.sin((3 + seed) * time) > 0)
    return (32767 * noise.clip(-1, 1)).astype("<i2").tobytes()


def alone(model, data, rate=16000):
    """What one stream by itself says: probabilities and segments."""
    streamer = Streamer(model, latency=LATENCY, sample_rate=rate)
    updates = streamer.push(data) + streamer.finish()
    return np.concatenate([u.probs for u in updates]), [list(s) for u in updates for s in u.finished]


@contextlib.asynccontextmanager
async def serving(model, precision=None, **limits):
    """A server on a free port; gives its address, the application's inside, and the server."""
    app = create_app(model, latency=LATENCY, precision=precision, limits=ServerLimits(**limits))
    taken, ready = bind("127.0.0.1", 0), asyncio.Event()
    server = build_server(app, max_message_bytes=app.state.live.limits.max_message_bytes, on_ready=ready.set)
    task = asyncio.create_task(server.serve(sockets=[taken]))
    await ready.wait()
    try:
        yield f"ws://127.0.0.1:{taken.getsockname()[1]}/stream", app.state.live, server
    finally:
        server.should_exit = True
        await task


def run(main):
    """Run a test's coroutine, for so long as a test may last."""
    asyncio.run(asyncio.wait_for(main, SECONDS))


async def rest(client):
    """All messages until the end, and its code and reason."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await client.recv()))
    return messages, client.close_code, client.close_reason


async def talk(address, data, *, rate=16000, size=3000, options=""):
    """One whole stream in messages of `size` bytes; everything that came back."""
    async with connect(f"{address}?sample_rate={rate}&probs=true{options}") as client:
        listening = asyncio.create_task(rest(client))
        with contextlib.suppress(ConnectionClosed):
            for start in range(0, len(data), size):
                await client.send(data[start : start + size])
            await client.send(FINISH)
        return await listening


def check_answer(found, expected):
    """The messages of a stream are those of a stream alone."""
    messages, code, reason = found
    assert (code, reason) == (1000, "finished")
    assert messages[0]["type"] == "ready"
    updates = messages[1:]
    assert [u["is_last"] for u in updates] == [False] * (len(updates) - 1) + [True]
    probs, segments = expected
    np.testing.assert_allclose([row for u in updates for row in u["probs"]], probs, atol=2e-4)
    assert [s for u in updates for s in u["finished"]] == segments


def test_clients_at_once_get_their_own_answers_at_any_rate_and_cut(model):
    cases = [(16000, 3000), (16000, 1), (48000, 8001), (44100, 777), (8000, 4096), (16000, 65537)]
    data = [pcm(1.5 if size == 1 else 4 + 0.3 * i, seed=i, rate=rate) for i, (rate, size) in enumerate(cases)]
    data[1] = data[1][:6001]  # byte by byte, and half a sample at the end

    async def main():
        async with serving(model) as (address, live, _):
            jobs = [talk(address, d, rate=r, size=s) for d, (r, s) in zip(data, cases, strict=True)]
            found = await asyncio.gather(*jobs)
            assert live.num_streams == 0
            assert live.hub.num_batches < live.hub.num_pieces, "those that wait are run together"
            return found

    found = asyncio.run(main())
    for answer, d, (rate, _) in zip(found, data, cases, strict=True):
        check_answer(answer, alone(model, d[: len(d) // 2 * 2], rate))


def test_a_server_in_8_bits_answers_as_a_stream_in_8_bits(model):
    data = pcm(3)
    expected, _ = alone(in_precision(model, "int8"), data)

    async def main():
        async with serving(model, precision="int8") as (address, live, _):
            messages, code, _ = await talk(address, data)
            assert live.hub.model is not model
            assert code == 1000
            found = np.array([row for message in messages[1:] for row in message["probs"]])
            assert found.shape == expected.shape
            # a value on the edge between two whole numbers may fall to either side
            assert np.quantile(np.abs(found - expected), 0.9) < 1e-3

    run(main())


def test_without_probs_there_are_none_and_times_are_told(model):
    async def main():
        async with serving(model) as (address, _, _), connect(address) as client:
            await client.send(pcm(2))
            await client.send(FINISH)
            messages, code, _ = await rest(client)
            assert code == 1000
            assert "probs" not in messages[-1]
            assert messages[-1]["seconds"] == messages[-1]["received"] == 2.0
            assert messages[0]["latency_seconds"] == pytest.approx(13 * 0.08)

    run(main())


@pytest.mark.parametrize("rude", ["abort", "close", "before"])
def test_a_client_that_goes_in_the_middle_is_forgotten_and_costs_nobody(model, rude):
    data = pcm(4, seed=1)

    async def main():
        async with serving(model) as (address, live, _):
            other = asyncio.create_task(talk(address, data))
            client = await connect(address)
            if rude != "before":
                await client.send(pcm(3, seed=2))
            if rude == "close":
                await client.close()
            else:
                client.transport.abort()
            check_answer(await other, alone(model, data))
            while live.num_streams:
                await asyncio.sleep(0.01)
            check_answer(await talk(address, data), alone(model, data))
            assert not live.hub._streamer.streams

    run(main())


@pytest.mark.parametrize(
    "options, messages, code, said",
    [
        ("", ["garbage"], 1003, "binary"),
        ("", [b"\0\1", '{"type": "start"}'], 1003, "binary"),
        ("", ["[" * 5000], 1003, "binary"),
        ("", [b"\0" * (1 << 17)], 1009, ""),
        ("?sample_rate=44100.5", [], 1008, "sample_rate"),
        ("?sample_rate=7", [], 1008, "sample_rate"),
        ("?sample_rate=²", [], 1008, "sample_rate"),
        ("?probs=maybe", [], 1008, "probs"),
        ("?rate=16000", [], 1008, "`rate` is no parameter"),
    ],
)
def test_nonsense_is_refused_with_code_and_reason(model, options, messages, code, said):
    async def main():
        async with (
            serving(model, max_message_bytes=1 << 16) as (address, live, _),
            connect(address + options) as client,
        ):
            with contextlib.suppress(ConnectionClosed):
                for message in messages:
                    await client.send(message)
            found, found_code, reason = await rest(client)
            assert found_code == code
            assert said in reason
            if said:
                assert found[-1]["type"] == "error"
                assert found[-1]["code"] == code
            while live.num_streams:
                await asyncio.sleep(0.01)

    run(main())


def test_noise_as_audio_and_empty_messages_are_no_reason_to_end(model):
    garbage = np.random.default_rng(0).bytes(40_000)

    async def main():
        async with serving(model) as (address, _, _), connect(address) as client:
            for message in (b"", garbage, b"", b"\xff" * 999):
                await client.send(message)
            await client.send(FINISH)
            messages, code, _ = await rest(client)
            assert code == 1000
            assert messages[-1]["seconds"] == pytest.approx(40_999 // 2 / 16000, abs=1e-3)

    run(main())


def test_a_client_that_is_too_fast_waits_and_nothing_is_lost(model, monkeypatch):
    data, waiting = pcm(40), []
    push = BatchedStreamer.push

    def slow(self, pieces, **options):
        waiting.append(max(len(session._audio) for session in live_now[0]._sessions))
        return push(self, pieces, **options)

    live_now = []
    monkeypatch.setattr(BatchedStreamer, "push", slow)

    async def main():
        async with serving(model, max_waiting_seconds=1.0) as (address, live, _):
            live_now.append(live)
            messages, code, _ = await talk(address, data, size=16_000)
            assert code == 1000
            assert messages[-1]["seconds"] == 40.0
            assert max(m.get("waiting", 0) for m in messages) <= 1.0

    run(main())
    assert max(waiting) <= 32_000
    assert np.median(waiting) > 8_000, "it was too fast"


def test_of_200_clients_those_past_the_limit_are_refused_and_the_others_go_on(model):
    data = pcm(3)

    async def main():
        async with serving(model, max_connections=4) as (address, live, _):
            first = [await connect(f"{address}?probs=true") for _ in range(4)]
            for client in first:
                await client.send(data[:20_000])
            refused = await asyncio.gather(*(talk(address, data) for _ in range(196)))
            assert live.num_streams == 4
            for messages, code, reason in refused:
                assert code == 1013
                assert "4 streams are in use" in reason
                assert [m["type"] for m in messages] == ["error"]
            for client in first:
                await client.send(data[20_000:])
                await client.send(FINISH)
            for client in first:
                check_answer(await rest(client), alone(model, data))
            check_answer(await talk(address, data), alone(model, data))  # there is room again

    run(main())


def test_the_end_of_the_server_finishes_the_streams(model):
    data = pcm(3.1)

    async def main():
        async with serving(model) as (address, _, server):
            clients = [await connect(f"{address}?probs=true") for _ in range(3)]
            for client in clients:
                assert json.loads(await client.recv())["type"] == "ready"
                await client.send(data)
            for client in clients:
                assert json.loads(await client.recv())["type"] == "update"
            server.should_exit = True
            for client in clients:
                messages, code, reason = await rest(client)
                assert (code, reason) == (1001, "the server stops")
                assert messages[-1]["is_last"]
                assert messages[-1]["seconds"] == 3.1

    run(main())


@pytest.mark.parametrize(
    "limits, seconds, reason",
    [({"max_seconds": 2.0}, 2.0, "at most 2 s"), ({"idle_seconds": 1.0}, 3.0, "no audio for 1 s")],
)
def test_a_stream_at_its_limit_is_answered_to_there(model, limits, seconds, reason):
    async def main():
        async with serving(model, **limits) as (address, _, _), connect(address) as client:
            with contextlib.suppress(ConnectionClosed):
                await client.send(pcm(3))
            messages, code, said = await rest(client)
            assert code == 1008
            assert reason in said
            assert messages[-1]["is_last"]
            assert messages[-1]["seconds"] == seconds

    run(main())


def test_an_error_of_one_stream_is_not_one_of_the_others(model, monkeypatch):
    push, data, bad = BatchedStreamer.push, pcm(4, seed=3), b"\x55" * 3000

    def break_on_marks(self, pieces, **options):
        if any(bad[:100] in piece for piece in pieces.values()):
            raise RuntimeError("/secret/path")
        return push(self, pieces, **options)

    monkeypatch.setattr(BatchedStreamer, "push", break_on_marks)

    async def main():
        async with serving(model) as (address, _, _):
            good, failed = await asyncio.gather(talk(address, data), talk(address, bad))
            check_answer(good, alone(model, data))
            messages, code, reason = failed
            assert code == 1011
            assert "secret" not in reason + json.dumps(messages)

    run(main())


def test_pages_of_other_sites_are_refused(model):
    async def main():
        async with serving(model) as (address, _, _):
            for origin, code in (("https://evil.example", 1008), ("http://[", 1008), ("null", 1008)):
                async with connect(address, origin=origin) as client:
                    _, found, reason = await rest(client)
                    assert found == code
                    assert "other sites" in reason
            own = address.replace("ws:", "http:").removesuffix("/stream")
            async with connect(address, origin=own) as client:
                await client.send(FINISH)
                assert (await rest(client))[1] == 1000

    run(main())


def test_the_page_and_the_health_are_there(model):
    def get(path):
        with urllib.request.urlopen(path, timeout=SECONDS) as answer:
            return answer.read().decode(), answer.headers

    async def main():
        async with serving(model, max_connections=3) as (address, _, _), connect(address):
            root = address.replace("ws:", "http:").removesuffix("stream")
            page, headers = await asyncio.to_thread(get, root)
            assert "<title>Who speaks now</title>" in page
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            health, _ = await asyncio.to_thread(get, root + "health")
            assert json.loads(health) == {"ok": True, "streams": 1, "max_streams": 3}

    run(main())


def test_an_address_in_use_is_said_before_anything_slow():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match=r"cannot be taken: .*--port"):
            bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("name", ["max_connections", "max_seconds", "idle_seconds", "max_message_bytes"])
def test_limits_without_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        ServerLimits(**{name: 0})
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        ServerLimits(**{name: float("nan")})
