"""Serve a report to this machine alone: bound to the loopback address, read-only, one folder, no other host's name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from analysis.live.renewal import EVERY, Renewed

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".json": "application/json",
}
POLICY = "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"


class LiveServer(ThreadingHTTPServer):
    """Serves the page of a study and the figures and tables beside it.

    It answers GET and HEAD only. It refuses requests whose Host is not this machine's loopback address: a page of
    another site could otherwise read the report through a name that it lets point here (DNS rebinding).

    Parameters
    ----------
    report
        The report to serve.
    port
        Port on 127.0.0.1; 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, report: Renewed, port: int = 0) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.report = report

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version, sys_version = "sdpet", ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed of requests."""

    def _answer(self, with_content: bool) -> None:
        hosts = [f"{name}:{self.server.server_port}" for name in NAMES]
        if self.headers.get_all("Host") not in [[host] for host in hosts]:
            return self._refuse(403, f"This page is for {self.server.url} only.")
        content = self._content(unquote(urlsplit(self.path).path))
        if content is None:
            return self._refuse(404, "There is no such file in this report.")
        kind, body = content
        self.send_response(200)
        self._headers(kind, len(body))
        if with_content:
            self.wfile.write(body)

    def _content(self, path: str) -> tuple[str, bytes] | None:
        """Type and bytes of a file of the report; None if there is none of this name, or it is outside its folder."""
        report = self.server.report
        if path in ("/", "/index.html"):
            return KINDS[".html"], report.page().encode()
        if path == "/version":
            return KINDS[".json"], report.version().encode()
        folder = report.folder.resolve()
        if "\0" in path or "\\" in path:
            return None
        file = (folder / path.lstrip("/")).resolve()  # a link may lead elsewhere
        hidden = any(part.startswith(".") for part in path.split("/"))
        if hidden or not file.is_relative_to(folder) or file.suffix not in KINDS or not file.is_file():
            return None
        return KINDS[file.suffix], file.read_bytes()

    def _refuse(self, code: int, why: str) -> None:
        self.send_response(code)
        self._headers("text/plain; charset=utf-8", len(why))
        if self.command != "HEAD":
            self.wfile.write(why.encode())

    def _headers(self, kind: str, length: int) -> None:
        for name, value in {
            "Content-Type": kind, "Content-Length": str(length), "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()


def serve(study: Path, write: Callable[[], Path], port: int, say: Callable[[str], None]) -> None:
    """Serve the report of a study, renewed as runs end, until Ctrl-C.

    Parameters
    ----------
    study
        The study's folder.
    write
        Writes the report and returns its page.
    port
        Port on 127.0.0.1; 0 takes a free one.
    say
        Gets the address of the page.

    Raises
    ------
    ValueError
        There is no such folder, or the port is taken.
    """
    if not study.is_dir():
        raise ValueError(f"--live needs the folder of a study, such as outputs/placement; {study} is none.")
    report = Renewed(study, write)
    try:
        server = LiveServer(report, port)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} of {ADDRESS} cannot be used ({error}); choose another, or 0 for a free one."
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True, name="live report").start()
        say(server.url)
        try:
            while True:
                report.renew()
                threading.Event().wait(EVERY)
        except KeyboardInterrupt:
            server.shutdown()
