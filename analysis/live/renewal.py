"""The report of a study that is under way, written again when runs have ended."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sdpet.study.status import status_text, study_status

EVERY = 5.0  # seconds between two looks at the study, and between two questions of a page for its version
DECISIONS = (".race.json",)  # beside the records, what changes a page
BODY = re.compile(r"<body[^>]*>")
STYLE = (
    "position:sticky;top:0;z-index:9;margin:0;padding:.4rem 1rem;font:13px/1.4 system-ui,sans-serif;"
    "background:#14324a;color:#fff;overflow:auto;max-height:40vh"
)
SCRIPT = """
(async function ask() {
  try {
    const found = await (await fetch("version", {cache: "no-store"})).json();
    if (found.version !== VERSION) { location.reload(); return; }
    document.getElementById("live-status").textContent = found.status;
  } catch (error) {
    document.getElementById("live-status").textContent = "The command that serves this page has ended.";
  }
  setTimeout(ask, EVERY);
})();
"""


@dataclass(frozen=True)
class _Page:
    """The report as it was written last; `state` is that of the study it was written of."""

    html: str
    version: int
    state: Any


class Renewed:
    """The report of a study, written again by `renew` when the study has changed.

    Parameters
    ----------
    study
        The study's folder.
    write
        Writes the report and returns its page; ValueError if there is nothing to report on yet.
    """

    def __init__(self, study: Path, write: Callable[[], Path]) -> None:
        self.study, self._write = study, write
        self.folder = study / "report"
        self._page = _Page(_waiting("No run has ended yet."), 0, None)
        self._lock = threading.Lock()

    def renew(self) -> bool:
        """Write the report again if runs have ended or a race has decided since; returns whether it did."""
        with self._lock:
            state = self._state()
            if state == self._page.state:
                return False
            try:
                written = self._write()
                self.folder, html = written.parent, written.read_text(encoding="utf-8")
            except (ValueError, OSError) as error:
                html = _waiting(str(error))
            self._page = _Page(html, self._page.version + 1, state)
            return True

    def page(self) -> str:
        """The page, which asks for its version and loads itself again when there is a newer one."""
        page = self._page
        script = SCRIPT.replace("VERSION", str(page.version)).replace("EVERY", str(int(EVERY * 1000)))
        line = f'<pre id="live-status" role="status" style="{STYLE}">{escape(self.status())}</pre>'
        again = f'<noscript><meta http-equiv="refresh" content="{int(6 * EVERY)}"></noscript>'
        html = page.html.replace("</head>", f"{again}</head>", 1)
        return BODY.sub(lambda body: f"{body[0]}\n{line}\n<script>{script}</script>", html, count=1)

    def version(self) -> str:
        """JSON of the page's version and of how far the study is."""
        return json.dumps({"version": self._page.version, "status": self.status()})

    def status(self) -> str:
        """How far the study is, with what its race has decided so far."""
        try:
            return status_text(study_status(self.study, check_files=False))
        except (ValueError, OSError) as error:
            return str(error)

    def _state(self) -> list[tuple[str, int, int]]:
        """Which records and decisions there are, and when each was written."""
        files = [*self.study.glob("*/record.json"), *(self.study / name for name in DECISIONS)]
        found = []
        for file in files:
            try:
                about = file.stat()
            except OSError:
                continue  # is being replaced, or is not there
            found.append((str(file), about.st_mtime_ns, about.st_size))
        return sorted(found)


def _waiting(why: str) -> str:
    """A page for a study of which there is no report yet."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>A study under way</title></head>\n'
        f"<body>\n<p>{escape(why)}</p>\n</body></html>\n"
    )
