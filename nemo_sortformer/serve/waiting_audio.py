# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Audio of one client on its way to the model: a queue with an end that is never longer than it may be."""

from __future__ import annotations

import asyncio


class WaitingAudio:
    """Bytes that wait; putting in waits where there is no room, taking out waits where there is nothing.

    Args:
        max_bytes: most bytes that wait; a single piece may be longer, and then waits alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._data = bytearray()
        self._ended = False
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._data)

    async def put(self, data: bytes) -> bool:
        """Add a piece when there is room for it; False where the queue has ended, and nothing is added any more."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._ended or not self._data or len(self._data) + len(data) <= self.max_bytes
            )
            if not self._ended:
                self._data += data
                self._changed.notify_all()
            return not self._ended

    async def take(self, most_bytes: int) -> bytes | None:
        """The next bytes, as soon as there are any; None when the queue has ended and is empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._data) or self._ended)
            piece = bytes(self._data[:most_bytes])
            del self._data[:most_bytes]
            self._changed.notify_all()
            return piece or None

    async def end(self, *, drop: bool = False) -> None:
        """Nothing is added any more; what waits is kept, or dropped."""
        async with self._changed:
            self._ended = True
            if drop:
                self._data.clear()
            self._changed.notify_all()
