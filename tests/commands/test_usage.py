"""The command `sdpet` and its subcommands on the command line: what they say without arguments and with wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sdpet.commands.adapters as adapters
import sdpet.commands.cli as cli

ROOT = Path(__file__).parent.parent.parent
NEEDED = {
    "analyse": "STUDY", "analyse power": "STUDY, --effect", "status": "STUDY", "verify": "STUDY",
    "img2img": "--init-img", "adapters": "COMMAND", "adapters count": "model", "lab": "COMMAND",
}  # fmt: skip  # what these subcommands cannot do without


@pytest.fixture(autouse=True)
def the_environment_stays_as_it_was(monkeypatch):
    """train.py and evaluate.py set Hydra's variable for whole errors, which later tests must not see."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


def test_python_m_sdpet_is_the_command_sdpet(capsys):
    cli.main(["--help"])
    ended = subprocess.run([sys.executable, "-m", "sdpet", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, capsys.readouterr().out), ended.stderr
    ended = subprocess.run([sys.executable, "-m", "sdpet", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ")


@pytest.mark.parametrize("command", NEEDED)
def test_subcommands_that_need_arguments_say_so_alike(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    said = capsys.readouterr()
    needed = (
        f"error: the following arguments are required: {NEEDED[command]}; sdpet {command} --help shows all options.\n"
    )
    assert (ended.value.code, said.out, said.err) == (2, "", needed)


@pytest.mark.parametrize("command", [["lab", "chek"], ["adapters", "shw"], ["doctor", "unet"], ["txt2img", "--stpes"]])
def test_subcommands_refuse_wrong_arguments_alike(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and said.err.endswith(f"sdpet {command[0]} --help shows all options.\n")
    assert repr(command[1]) in said.err or command[1] in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_subcommand_begins_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    said = capsys.readouterr()
    assert ended.value.code == 0 and said.out.startswith("example: sdpet ") and said.err == ""


@pytest.mark.parametrize("command", re.findall(r"(?m)^  sdpet adapters (\S+)", adapters.HELP))
def test_help_of_every_command_for_adapters_begins_with_an_example_that_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["adapters", command, "--help"])
    first = capsys.readouterr().out.splitlines()[0]
    assert ended.value.code == 0 and first.startswith(f"example: sdpet adapters {command} ")
