"""Read files that another process, another version or another person wrote: with limits, and without running anything.

Every reader raises ValueError with one sentence that names the file. Nothing here imports torch or numpy.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sdpet.files.plain_json import finite

MOST_BYTES = 64 << 20  # of one JSON or text file; records of the longest studies have well below 1 MB
MOST_CONFIG_BYTES = 1 << 20
MOST_DEPTH = 64  # mappings and lists inside each other
MOST_ITEMS = 2_000_000  # values of one file, with those that YAML's aliases repeat
MOST_WHOLE = 10**40  # beyond it, whole numbers are none that sdpet writes
INTERPOLATION = "${"


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a text in UTF-8, with or without byte order mark.

    Parameters
    ----------
    path : Path
    most : int
        Largest size in bytes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It cannot be read, is no regular file, is larger than `most`, or is not UTF-8.
    """
    return _decoded(path, _bytes(path, most))


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Read JSON, with limits on its size, depth and numbers; raises as `read_text`."""
    return parsed(path, read_text(path, most))


def read_json_lines(path: Path, most: int = MOST_BYTES) -> Iterator[tuple[int, Any]]:
    """Read a file with one JSON value a line.

    Parameters
    ----------
    path : Path
    most : int
        Largest size in bytes.

    Yields
    ------
    int
        Number of the line, from 1.
    any
        Its value, or the ValueError that says what is wrong with this line. Blank lines are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_text`.
    """
    for number, line in enumerate(read_text(path, most).splitlines(), 1):
        if line.strip():
            try:
                yield number, parsed(f"line {number} of {path}", line)
            except ValueError as error:
                yield number, error


def parsed(where: object, text: str) -> Any:
    """Parse JSON.

    Parameters
    ----------
    where : object
        What errors call the text.
    text : str

    Returns
    -------
    any
        Numbers that are not finite are None.

    Raises
    ------
    ValueError
        It is damaged, nested too deeply, or has a number of too many digits.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} is nested more than {MOST_DEPTH} levels deep.") from None
    except ValueError as error:
        raise ValueError(f"{where} is not readable as JSON ({' '.join(str(error).split())}).") from None
    return found if _check(found, where) else finite(found)


def read_yaml(path: Path, most: int = MOST_CONFIG_BYTES) -> Any:
    """Read YAML of plain values, with limits on size and depth, and without interpolation; raises as `read_text`."""
    return parsed_yaml(path, read_text(path, most))


def parsed_yaml(where: object, text: str) -> Any:
    """Parse YAML of plain values; `where` is what errors (ValueError) call the text."""
    import yaml

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be read.") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{where} cannot be read ({' '.join(str(error).split())}).") from None
    _refuse_repetition(found, where)
    _refuse_interpolation(found, where)
    return found


def inside(folder: Path, name: Any, where: object, links: bool = False) -> Path:
    """The path of a file that an index names.

    Parameters
    ----------
    folder : Path
        The folder that the file must lie in.
    name : any
        What the index holds; a relative path with "/".
    where : object
        What errors call the index.
    links : bool
        Whether links may lead out of the folder, as in a folder of the user's own pictures.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        The name is no text, or is absolute, climbs out of the folder, or leads out of it over a link.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{where} names no file, but {name!r:.80}.")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    climbs = ".." in posix.parts or ".." in windows.parts
    path = folder / name
    if posix.is_absolute() or windows.drive or windows.root or climbs or not (links or _is_below(path, folder)):
        raise ValueError(f"{where} names {name!r:.200}, which is not inside {folder}.")
    return path


def _is_below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle, or a name that is too long
        return False


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ValueError(f"{path} is not a regular file.")
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from None
    if len(content) > most:
        raise ValueError(f"{path} is larger than the {most >> 20} MB that such a file may have.")
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8.") from None


def _check(content: Any, where: object) -> bool:
    """Raise ValueError for content that is nested too deeply or has huge numbers; returns whether all are finite."""
    try:
        return _walk([content], MOST_DEPTH)
    except RecursionError:
        raise ValueError(f"{where} is nested more than {MOST_DEPTH} levels deep.") from None
    except OverflowError:
        raise ValueError(f"{where} holds a whole number of more than {len(str(MOST_WHOLE)) - 1} digits.") from None


def _walk(content: dict[Any, Any] | list[Any], depth: int) -> bool:
    """Whether all numbers are finite. Records of thousands of runs are read so, hence one quick loop."""
    if not depth:
        raise RecursionError
    ok = True
    for item in content.values() if type(content) is dict else content:
        kind = type(item)
        if kind is float:
            ok = ok and item - item == 0
        elif kind is dict or kind is list:
            ok = _walk(item, depth - 1) and ok
        elif kind is int and not -MOST_WHOLE < item < MOST_WHOLE:
            raise OverflowError
    return ok


def _refuse_repetition(content: Any, where: object) -> None:
    """Raise ValueError for YAML whose aliases repeat its content beyond all measure, or for ever."""
    left, level = MOST_ITEMS, [content]
    for _ in range(MOST_DEPTH):
        level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
        left -= len(level)
        if not level:
            return
        if left < 0:
            raise ValueError(f"{where} holds more than {MOST_ITEMS:,} values.")
    raise ValueError(f"{where} is nested more than {MOST_DEPTH} levels deep.")


def _items(value: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _refuse_interpolation(content: Any, where: object) -> None:
    if isinstance(content, dict):
        for key, item in content.items():
            _refuse_interpolation(key, where)
            _refuse_interpolation(item, where)
    elif isinstance(content, list):
        for item in content:
            _refuse_interpolation(item, where)
    elif isinstance(content, str) and INTERPOLATION in content:
        raise ValueError(
            f"{where} refers to {content!r:.80}; a stored config holds plain values, and references are not followed."
        )
