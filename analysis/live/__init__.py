"""The report of a study while it runs: served on this machine alone, and renewed as runs end.

renewal: the report, written again when the study has changed; server: the files of it over HTTP, to this machine only.
"""

from analysis.live.renewal import Renewed
from analysis.live.server import LiveServer, serve

__all__ = ["LiveServer", "Renewed", "serve"]
