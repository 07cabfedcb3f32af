"""Slow and greedy clients: uvicorn waits for ever, and takes headers without end. Here all of it has a bound."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 15.0
BODY_SECONDS = 30.0
READING_SECONDS = 30.0
LARGEST_HEAD = 32_768


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which closes a connection that dawdles, sends headers without end, or does not read its answer."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._give(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, and count what belongs to headers that are not complete yet."""
        self._head += len(data)
        super().data_received(data)
        if not self._in_head:
            return
        if self._head > LARGEST_HEAD:
            self.send_400_response("Headers too large.")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._give(HEADER_SECONDS)  # something came that begins no request, and has stopped the idle timer

    def on_message_begin(self) -> None:
        """Begin to wait for the headers of a further request."""
        super().on_message_begin()
        self._in_head = True
        if self._timer is None:
            self._give(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """Begin to wait for the body."""
        self._in_head, self._head = False, 0
        super().on_headers_complete()
        self._give(BODY_SECONDS)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is here."""
        self._in_head, self._head = True, 0
        self._stop_waiting()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read its answer."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client reads."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _give(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
