"""Slow clients: uvicorn waits for ever for a request that was begun. Here headers have fifteen seconds, and a body thirty."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 15.0
BODY_SECONDS = 30.0


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which closes a connection that dawdles. Idle connections between requests are uvicorn's matter."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._give(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the headers of a further request."""
        super().on_message_begin()
        if self._timer is None:
            self._give(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """Begin to wait for the body."""
        super().on_headers_complete()
        self._give(BODY_SECONDS)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is here."""
        self._stop_waiting()
        super().on_message_complete()

    def _give(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
