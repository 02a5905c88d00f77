"""A server on this machine that sends parts of files, and misbehaves on demand."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it serves and what it was asked.

    Attributes
    ----------
    files
        Path -> content.
    faults
        What the next requests meet, in order: a status, "drop" (half of the bytes, then the end), "short" (fewer than it said),
        "other range", or None for nothing.
    asked
        (path, first, last) of each request; last is None without a range.
    """

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[int | str | None] = field(default_factory=list)
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    ranges: bool = True
    version: str = '"1"'
    redirect: Callable[[str], str | None] = lambda _: None
    retry_after: str | None = None
    bytes_sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        state, path = self.state, self.path.partition("?")[0]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(match[1]), int(match[2])) if match else (0, None)
        state.asked.append((path, first, last))
        fault = state.faults.pop(0) if state.faults else None
        if target := state.redirect(self.path):
            return self.empty(302, {"Location": target})
        if isinstance(fault, int):
            return self.empty(fault, {"Retry-After": state.retry_after} if state.retry_after else {})
        content = state.files.get(path)
        if content is None:
            return self.empty(404, {})
        headers = {"ETag": state.version}
        if last is None or not state.ranges:
            status, body = 200, content
        else:
            last = min(last, len(content) - 1)
            body = content[first : last + 1]
            start = first + 1 if fault == "other range" else first
            status, headers["Content-Range"] = 206, f"bytes {start}-{last}/{len(content)}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = len(body) + (5 if fault == "short" else 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault in ("drop", "short"):
            body = body[: len(body) // 2]
            self.close_connection = True
        state.bytes_sent += len(body)  # before: who has read them may look at once
        self.wfile.write(body)

    def empty(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve() -> Iterator[Server]:
    """Serve in a thread."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.state = Server(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield handler.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
