# SPDX-License-Identifier: MIT
"""A network between a mount and its broker, made to fail: one listening port in front of another."""

import asyncio
import contextlib
import socket
import struct
import threading

CHUNK = 65536


class Proxy:
    """Forwards from a thread of its own; the other methods may be called from any one thread."""

    def __init__(self, target_port):
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._refusing = False
        self._writers = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    # -- what a fault does --------------------------------------------------

    def freeze(self):
        """Nothing gets through any more, either way, and nobody is told."""
        self._call(self._open.clear)

    def thaw(self):
        """What was held back goes on its way."""
        self._call(self._open.set)

    def cut(self):
        """Every connection ends with a reset."""
        self._call(self._reset)

    def refuse(self, refusing=True):
        """New connections are reset at once."""
        self._refusing = refusing

    def close(self):
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -- how ----------------------------------------------------------------

    def _call(self, action):
        self._loop.call_soon_threadsafe(action)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._open.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._reset()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _reset(self):
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _connected(self, reader, writer):
        self._writers.add(writer)
        onward = None
        try:
            if self._refusing:
                return
            await self._open.wait()
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(onward)
            await asyncio.wait([asyncio.ensure_future(self._pump(reader, onward)),
                                asyncio.ensure_future(self._pump(onward_reader, writer))],
                               return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for one in filter(None, (writer, onward)):
                self._writers.discard(one)
                one.transport.abort()

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
