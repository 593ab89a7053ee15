"""Helpers for tests that start servers."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import threading
from typing import Any


def free_port(together: int = 1) -> int:
    """The first of `together` consecutive free ports of the loopback."""
    for first in range(21_000 + os.getpid() % 9000, 60_000, together):
        if all(_free(first + step) for step in range(together)):
            return first
    raise RuntimeError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0


class Proxy:
    """Proxy to a server on the loopback that responds with 503 to every Nth request, like a busy
    store.
    """

    def __init__(self, port: int, every: int) -> None:
        self.requests, self.refused = 0, 0
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self._body()
                if outer._refuse(every):
                    self._answer(
                        503,
                        [("Content-Type", "application/xml")],
                        b"<Error><Code>SlowDown</Code></Error>",
                    )
                    return
                onward = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() != "transfer-encoding"
                }
                onward.request(self.command, self.path, body, headers)
                answer = onward.getresponse()
                self._answer(
                    answer.status,
                    answer.getheaders(),
                    answer.read(),
                    answer.getheader("Content-Length"),
                )
                onward.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def _body(self) -> bytes:
                if self.headers.get("Expect") == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(
                self, status: int, headers: Any, body: bytes, length: str | None = None
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                # The response to HEAD has the length of the body.
                self.send_header(
                    "Content-Length",
                    length if self.command == "HEAD" and length else str(len(body)),
                )
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _refuse(self, every: int) -> bool:
        with self._lock:
            self.requests += 1
            refuse = self.requests % every == 0
            self.refused += refuse
            return refuse
