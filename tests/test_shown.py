"""What README and docs show of a command's output is what the command prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from study_tools import ROOT, environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?ms)^```\w*\n(.*?)^```")
QUICK = ("bad.ckpt", "dry-run")
NEEDS = {"images=": "a run's folder, whose id the reader knows", "eval=paper": "a machine that has no weights"}
DURATION = re.compile(r"\b[\d.]+ (s|min|h)\b")
SCORE = re.compile(r"\b\d\.\d{3}\b")
NEAR = 0.02  # scores of another processor


def shown():
    """Commands with the output that a page shows: after "$ ", or in a block that follows that of a dry run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = list(BLOCK.finditer(text))
        for block, following in zip_longest(blocks, blocks[1:]):
            command, _, output = block[1].partition("\n")
            is_dry_run = following is not None and "--dry-run" in command and not output
            if is_dry_run and not text[block.end() : following.start()].strip():
                command, output = f"$ {command}", following[1]
            if command.startswith("$ ") and output.strip() and not any(part in command for part in NEEDS):
                slow = [] if any(part in command for part in QUICK) else [pytest.mark.slow]
                yield pytest.param(command.removeprefix("$ "), output, id=f"{page.name}: {command[2:60]}", marks=slow)


def test_pages_show_outputs():
    assert len(list(shown())) >= 4


class Harm:
    """What a checkpoint of ill will holds."""

    def __reduce__(self):
        return __import__("os").system, ("true",)


@pytest.mark.parametrize(("command", "output"), shown())
def test_shown_output_is_what_the_command_prints(command, output, tmp_path):
    if "bad.ckpt" in command:
        torch.save({"state_dict": Harm()}, tmp_path / "bad.ckpt")
    program, *arguments = shlex.split(command)
    start = {"python": [str(ROOT / arguments[0])], "sdpet": ["-m", "sdpet", arguments[0]]}[program]
    ended = subprocess.run(
        [sys.executable, *start, *arguments[1:]], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    errors = "".join(line for line in ended.stderr.splitlines(True) if line.startswith("error:"))  # no progress
    printed, told = one_line(ended.stdout + errors), one_line(output)
    assert SCORE.sub("_", printed) == SCORE.sub("_", told)
    found, named = (list(map(float, SCORE.findall(text))) for text in (printed, told))
    assert found == pytest.approx(named, abs=NEAR)


def one_line(text: str) -> str:
    """A text without its line breaks, which pages move, and with the same word for every duration."""
    return DURATION.sub("TIME", " ".join(text.replace(str(Path.home()), "~").split()))
