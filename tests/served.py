"""A web server on this machine whose answers a test can script, one request after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


@dataclass
class Site:
    """content: what is served at every path but /missing, in the version `tag`. answers: how the
    next requests are answered; when they are used up, honestly. asked: path and Range of each."""

    url: str
    content: bytes = CONTENT
    tag: str = '"one"'
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str]:
        return [ranged for _, ranged in self.asked]


Answer = Callable[[BaseHTTPRequestHandler, Site], None]


def honest(handler: BaseHTTPRequestHandler, site: Site, sent: int | None = None) -> None:
    """As RFC 9110 has it. sent: how many bytes come before the connection breaks off."""
    wanted = handler.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
    first = int(wanted) if wanted and handler.headers["If-Range"] == site.tag else 0
    if first >= len(site.content):
        send(handler, 416, {"Content-Range": f"bytes */{len(site.content)}"})
        return
    end = len(site.content)
    headers = {"Content-Length": str(end - first), "ETag": site.tag}
    if first:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{end}"
    send(handler, 206 if first else 200, headers, site.content[first:][:sent])


def breaks_off(after: int) -> Answer:
    """Announces all of it, and closes the connection after so many bytes."""
    return lambda handler, site: honest(handler, site, after)


def announces(length: int) -> Answer:
    """Sends everything under a Content-Length of its own."""
    return lambda handler, site: send(
        handler, 200, {"Content-Length": str(length), "ETag": site.tag}, site.content
    )


def says(status: int) -> Answer:
    return lambda handler, site: send(handler, status, {"Content-Length": "0"})


def send(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b""
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving() -> Iterator[Site]:
    """A site while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range", "")))
            if self.path == "/missing":
                send(self, 404, {"Content-Length": "0"})
                return
            answer = site.answers.pop(0) if site.answers else honest
            answer(self, site)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
