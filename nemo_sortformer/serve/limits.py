# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What one client, and all together, may take of the server."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_sortformer.config.merge import ConfigError

_LEAST = {
    "max_connections": 1,
    "max_seconds": 1.0,
    "max_message_bytes": 1024,
    "max_waiting_seconds": 0.5,
    "idle_seconds": 1.0,
    "send_seconds": 1.0,
    "grace_seconds": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one client, and all together, may take; memory is bounded by `max_connections` times the rest."""

    max_connections: int = 16
    """Streams at once; the next one is refused with a reason."""
    max_seconds: float = 3600.0
    """Audio of one stream; then it is finished and closed."""
    max_message_bytes: int = 1 << 18
    """Longest message; 256 KiB are 8 s at 16 kHz."""
    max_waiting_seconds: float = 10.0
    """Audio of one stream that waits for the model; past that the server stops reading from the client."""
    idle_seconds: float = 60.0
    """A stream that sends nothing for so long is finished and closed."""
    send_seconds: float = 20.0
    """A client that does not take an answer for so long is gone."""
    grace_seconds: float = 10.0
    """When the server stops, streams have so long to finish."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"`{name}` must be at least {least}, but is {getattr(self, name)}.")
