"""A TCP proxy in front of the server, which resets a connection where it is told to."""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

CHUNK = 16_384
UPLOAD, LOG_BATCH = b"PUT ", b"POST /api/2.0/mlflow/runs/log-batch"


@dataclass
class Cut:
    """One reset that is to come.

    Attributes:
        request: how the request begins that it falls into.
        after_bytes: of the request, which are let through; None lets the whole request through and cuts its
            answer off.
        is_made: the connection has been reset.
    """

    request: bytes
    after_bytes: int | None
    is_made: threading.Event = field(default_factory=threading.Event)


class ResettingProxy:
    """Listens on a port of its own, and passes everything on."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._cut: Cut | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next(self, request: bytes, *, after_bytes: int | None) -> Cut:
        """Reset the next connection over which such a request comes."""
        self._cut = Cut(request, after_bytes)
        return self._cut

    def take_back(self, cut: Cut) -> bool:
        """Cancel a cut; False if it has been made, or is being made."""
        if self._cut is not cut:
            return False
        self._cut = None
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            threading.Thread(target=link.pass_requests, daemon=True).start()
            threading.Thread(target=link.pass_answers, daemon=True).start()

    def take_cut(self, request: bytes) -> Cut | None:
        """Return the cut that falls into this request, once."""
        cut = self._cut
        if cut is None or not request.startswith(cut.request):
            return None
        self._cut = None
        return cut


class _Link:
    """One connection."""

    def __init__(self, proxy: ResettingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._cut: Cut | None = None
        self._n_left = 0

    def pass_requests(self) -> None:
        """Pass what the client sends, up to a cut."""
        with contextlib.suppress(OSError):
            while chunk := self._client.recv(CHUNK):
                if self._cut is None and (cut := self._proxy.take_cut(chunk)):
                    self._n_left, self._cut = cut.after_bytes or 0, cut
                if self._cut is not None and self._cut.after_bytes is not None:
                    self._server.sendall(chunk[: self._n_left])
                    self._n_left -= len(chunk)
                    if self._n_left <= 0:
                        self._break()
                        return
                    continue
                self._server.sendall(chunk)
            self._server.shutdown(socket.SHUT_WR)

    def pass_answers(self) -> None:
        """Pass what the server sends, unless the answer is to be cut off."""
        with contextlib.suppress(OSError):
            while chunk := self._server.recv(CHUNK):
                if self._cut is not None and self._cut.after_bytes is None:
                    self._break()
                    return
                self._client.sendall(chunk)
        # The server closed, or died: the client must hear of it.
        for end in (self._client, self._server):
            end.close()

    def _break(self) -> None:
        assert self._cut is not None, "only a cut breaks a link"
        _reset(self._client)
        _reset(self._server)
        self._cut.is_made.set()


def _reset(end: socket.socket) -> None:
    """Close so that the other side sees a reset, not an end."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # wakes the thread that reads
    end.close()
