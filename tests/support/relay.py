# SPDX-License-Identifier: MIT
"""A way to a broker that can be cut and mended at once, where killing and starting the broker takes seconds."""

import contextlib
import selectors
import socket
import threading

from rabbit import free_ports


class Relay:
    """Listens on a loopback port of its own and passes on what comes. Use as a context manager."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.port = free_ports(1)[0]
        self._lock = threading.Lock()
        self._listener = None
        self._sockets = set()

    def __enter__(self):
        self.mend()
        return self

    def __exit__(self, *_):
        self.cut()

    def url(self, vhost, user="guest", password="guest"):
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    def cut(self):
        """Hangs up on everybody, and nobody listens any more."""
        with self._lock:
            sockets = [*self._sockets, *filter(None, [self._listener])]
            self._listener = None
            self._sockets.clear()
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for one in sockets:
            one.close()

    def mend(self):
        if self._listener:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._pass, args=(near, listener), daemon=True).start()

    def _pass(self, near, listener):
        try:
            far = socket.create_connection(self.target, 10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            if self._listener is not listener:  # cut meanwhile
                near.close()
                far.close()
                return
            self._sockets |= {near, far}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while all(self._pump(key) for key, _ in selector.select()):
                pass
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    @staticmethod
    def _pump(key):
        data = key.fileobj.recv(65536)
        if data:
            key.data.sendall(data)
        return bool(data)
