"""For mkdocstrings: what docstrings show indented or after >>> becomes a block of code, not a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe

BLOCK = re.compile(r"(?m)^>>> .*(?:\n(?!\s*$).*)*")  # from a prompt to the next empty line


class FenceDoctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:
        if obj.docstring:
            obj.docstring.value = BLOCK.sub(lambda found: f"\n```pycon\n{found[0]}\n```\n", obj.docstring.value)
