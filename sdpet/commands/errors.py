"""Print errors that a user can correct as one sentence; all others keep their traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from sdpet.config.schema import unknown_key
from sdpet.files.atomic import no_space
from sdpet.files.project import CONF, here
from sdpet.files.terminal import did_you_mean, print_in_any_encoding
from sdpet.runs.libraries import silence_libraries
from sdpet.study.options import RULES as OPTIONS
from sdpet.study.options import unknown_option
from sdpet.study.signals import exit_on_sigterm

UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'.* full_key: hydra\.launcher")  # of a launcher
# The error for a plugin of Hydra that is not installed, with its package.
NO_PLUGIN = re.compile(r"Unknown plugin class : 'hydra_plugins\.(\w+)\.")
MUST_BE_GIVEN = re.compile(r"(\S+) must be given: ")  # the error for a key without a value
STOPPED = "Interrupted; run the same command again to resume."


def run_command(main: Callable[[], Any]) -> None:
    """Run the main function of a command.

    Exits with status 1 and one sentence for an error that the user can correct, with 130 or 143 if it is interrupted.
    """
    exit_on_sigterm(STOPPED)
    set_up_process()
    # Files in conf/hydra/launcher replace the schemas of plugins with the same name, which Hydra warns about.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing them
    try:
        main()
    except (CompactHydraException, ValueError, OSError) as error:
        _fail(sentence(error))
    except RuntimeError as error:
        if not NO_PLUGIN.match(str(error)):
            raise
        _fail(sentence(error))
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        sys.exit(130)


def set_up_process() -> None:
    """Process-wide settings of a command: silence libraries, and print the log of this package as notes."""
    print_in_any_encoding()
    silence_libraries()
    logger = logging.getLogger("sdpet")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("note: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def sentence(error: BaseException) -> str:
    """The error as one sentence that says what is wrong and what would be right."""
    return here(_sentence(error))


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options and "'" in text:
        group, _, option = (error.missing_cfg_file or text.split("'")[-2]).rpartition("/")
        hint = did_you_mean(option, error.options)
        return f"there is no {group}={option}{hint}; choose one of {', '.join(sorted(error.options))}."
    if "Could not override '" in text:
        return _no_such_key(text.split("Could not override '")[1].split("'")[0])
    if missing := NO_PLUGIN.match(text):
        package = missing[1].replace("_", "-")
        given = _given("hydra/launcher", "the launcher")
        return f"{given} needs the package {package}; install it with pip install {package}."
    if unknown := UNKNOWN_ARGUMENT.search(text):
        return _no_such_launcher_key(unknown[1])
    if "Ambiguous value for argument" in text:
        given = text.split("'")[1]
        return (
            f"{given} lists several values; add -m for a study of them, or write brackets for one list, KEY=[A,B], or "
            "quotes for one text, 'KEY=\"A, B\"'."
        )
    if "Could not delete from config. '" in text:
        key = text.split("'")[1]
        return f"~{key} has nothing to delete, as {key} is null or not there; leave it out."
    if (nothing := MUST_BE_GIVEN.match(text)) and f"~{nothing[1]}" in sys.argv:
        key = nothing[1]
        why = f"~{key} leaves no value, and {key} must be given"
        return f"{why}; leave ~{key} out for the default, or write {key}=VALUE."
    if "Sweep" in text and "Unexpected type annotation" in text:
        return _nested_sweep()
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; write KEY=VALUE, with quotes around commas, brackets and spaces."
    if isinstance(error, CompactHydraException):
        cause = f" {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
        return f"{text}{cause}" or type(error).__name__
    if no_space(error) is not None:
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        problem = os.strerror(no_space(error) or 0)
        return f"{problem}{place}; make room, then run the same command again: it resumes where this one stopped."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}."
    return text or type(error).__name__


def wrong_usage(command: str, problem: str) -> NoReturn:
    """End the command `sdpet COMMAND` with status 2 and one line for a wrong command line."""
    print(f"error: {problem}; {command} --help shows all options.", file=sys.stderr)
    sys.exit(2)


def _no_such_key(key: str) -> str:
    """For a key that Hydra does not find: a study without its plus, an option of another sweeper, or an unknown key."""
    if key == "sweeps":
        given = _given("sweeps", "sweeps=NAME")
        return f"{given} needs a plus, since it adds a group: python train.py -m +{given}."
    if key.startswith("hydra.launcher."):
        return _no_such_launcher_key(key.removeprefix("hydra.launcher."))
    option = key.removeprefix("hydra.sweeper.")
    if option == key:
        return unknown_key(key)
    other = _given("hydra/sweeper")
    if option in OPTIONS and other:
        flag = {"dry_run": "--dry-run", "register": "--register"}.get(option, key)
        return f"{flag} belongs to the sweeper grid, which {other} replaces; leave out one of the two."
    return unknown_option(option)


def _no_such_launcher_key(key: str) -> str:
    """For a key that the chosen launcher lacks: those that its file in conf/hydra/launcher names."""
    launcher = _given("hydra/launcher", "hydra/launcher=fleet")
    file = CONF / "hydra" / "launcher" / f"{launcher.partition('=')[2]}.yaml"
    keys = [str(name) for name in OmegaConf.load(file) if name != "_target_"] if file.is_file() else []
    hint = did_you_mean(key, keys)
    choices = f"; keys are {', '.join(keys)}" if keys else ""
    return f"there is no key hydra.launcher.{key} with {launcher}{hint}{choices}."


def _given(key: str, otherwise: str = "") -> str:
    """The argument KEY=VALUE of the command line, without its plus signs."""
    arguments = (argument.lstrip("+") for argument in sys.argv[1:])
    return next((argument for argument in arguments if argument.startswith(f"{key}=")), otherwise)


def _nested_sweep() -> str:
    """For a list of values with a list inside, which Hydra's parser does not know."""
    functions = r"=.*\b(choice|range|interval|glob|shuffle|sort|tag)\("
    given = next((argument for argument in sys.argv[1:] if re.search(functions, argument)), "a list of values")
    return f"{given} holds a list inside a list; give the values one by one, KEY=0,1,2."


def _fail(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(1)
