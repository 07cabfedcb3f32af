"""A TCP link that can be made bad: slow, cut, half open, swallowing, reset in the middle."""

import asyncio
import contextlib
import random
import socket
import threading


class BadLink:
    """Stands between a client and a server (a port, or a Unix socket), in a thread of its own. Its faults are changed while it runs."""

    def __init__(self, target):
        self.target = target
        self.delay = 0.0
        self.cut_chance = 0.0
        self.swallow = False  # takes what comes, and hands nothing on
        self.one_way = False  # hands on what the client says, and swallows the answers
        self.reset_after = None  # bytes from the client, then a reset
        self.loop = asyncio.new_event_loop()
        self.connections = set()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.ready.wait()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(asyncio.start_server(self._joined, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    def close(self):
        asyncio.run_coroutine_threadsafe(self._ended(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def _ended(self):
        self.server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for writer in list(self.connections):
            _reset(writer)
        await asyncio.wait(tasks, timeout=3) if tasks else None

    def cut_all(self):
        """Cut every connection, with a reset."""
        self.loop.call_soon_threadsafe(lambda: [_reset(w) for w in list(self.connections)])

    async def _joined(self, reader, writer):
        if isinstance(self.target, str):
            far_reader, far_writer = await asyncio.open_unix_connection(self.target)
        else:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.connections |= {writer, far_writer}
        with contextlib.suppress(Exception):
            await asyncio.gather(self._pump(reader, far_writer, asked=True), self._pump(far_reader, writer, asked=False))
        for each in (writer, far_writer):
            self.connections.discard(each)
            each.close()

    async def _pump(self, reader, writer, *, asked):
        passed = 0
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if random.random() < self.cut_chance:
                _reset(writer)
                raise ConnectionResetError
            if self.swallow or (self.one_way and not asked):
                continue
            if asked and self.reset_after is not None and passed + len(data) > self.reset_after:
                writer.write(data)
                await writer.drain()
                self.reset_after = None
                for each in list(self.connections):
                    _reset(each)
                raise ConnectionResetError
            passed += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer):
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
