"""What a CUDA device does with sdpet: python bench/gpu.py [--parts peak,fleet] [--out FOLDER] [--minutes 9] [--tiny].

Each part runs in a process of its own and writes FOLDER/<part>.json after each of its rows, so a part that fails or
takes too long does not stop the others, and its rows so far are kept. --tiny runs every part at a tenth of the size,
on the CPU where there is no CUDA device. Without a device and without --tiny it says so and exits 0.

The last line is one JSON object with the status of each part. The exit status is 1 if a part failed.

Parts:
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from gpu_parts import PARTS, Part, Size

ROOT = Path(__file__).parent.parent
FORK = multiprocessing.get_context("fork")
LEAST = 5.0  # seconds a part needs at least; with less time left it is not begun


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; return the exit status."""
    options = _options(arguments)
    diffusers.utils.logging.set_verbosity_error()  # it warns of every cast of a network
    found = device()
    if found is None and not options.tiny:
        print("not measured: no CUDA device")
        return 0
    context = start_method(found)
    size = Size("cpu" if found is None else "cuda", options.tiny)
    about = {"device": found or "the CPU", "torch": torch.__version__, "tiny": options.tiny}
    print(f"{about['device']}, torch {torch.__version__}; results in {options.out}", flush=True)
    return run_parts(
        {name: PARTS[name] for name in options.parts}, size, options.out, 60 * options.minutes, about, context
    )


def run_parts(
    parts: dict[str, Part], size: Size, out: Path, seconds: float, about: dict[str, Any], context: Any = FORK
) -> int:
    """Run parts one after another in at most `seconds`, print their rows, and return the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    ended: dict[str, str] = {}
    for name, part in parts.items():
        limit = min(part.seconds, end - time.monotonic())
        found = run_part(name, part.measure, size, out / f"{name}.json", limit, about, context)
        ended[name] = found["status"]
        print(f"\n{name}: {found['status']}" + (f" ({found['reason']})" if "reason" in found else ""))
        for row in found["rows"]:
            print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
    print(json.dumps(about | {"parts": ended}))
    return int(any(status != "done" for status in ended.values()))


def run_part(
    name: str, measure: Callable, size: Size, file: Path, limit: float, about: dict, context: Any = FORK
) -> dict[str, Any]:
    """Run one part in a process of its own for at most `limit` seconds; return what its file then says."""
    if limit < LEAST:
        _write(file, {"part": name, "status": "not measured", "reason": "no time was left", "rows": [], **about})
        return json.loads(file.read_text())
    _write(file, {"part": name, "status": "running", "rows": [], **about})
    child = context.Process(target=_measure, args=(name, measure, size, file, about))
    child.start()
    child.join(limit)
    stopped = child.is_alive()
    if stopped:
        os.killpg(child.pid, signal.SIGKILL)  # with the processes that compile for it
        child.join()
    found = json.loads(file.read_text())
    if found["status"] == "running":
        reason = f"stopped after {limit:.0f} s" if stopped else f"its process ended with status {child.exitcode}"
        found |= {"status": "failed", "reason": reason}
        _write(file, found)
    return found


def _measure(name: str, measure: Callable, size: Size, file: Path, about: dict[str, Any]) -> None:
    os.setpgrp()
    found: dict[str, Any] = {"part": name, "status": "running", "rows": [], **about}
    start = time.perf_counter()
    try:
        for row in measure(size):
            found["rows"].append(row)
            found["seconds"] = time.perf_counter() - start
            _write(file, found)
        found["status"] = "done"
    except Exception as error:
        traceback.print_exc()
        found |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
    _write(file, found | {"seconds": time.perf_counter() - start})


def device() -> str | None:
    """The name of the CUDA device, asked for in another process: one that has started CUDA must not fork."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True).stdout.strip() or None


def start_method(name: str | None) -> Any:
    """Fork, which saves each part the imports, unless a library has started CUDA in this process when imported."""
    if name is None:
        return FORK
    probe = FORK.Process(target=torch.zeros, args=(1,), kwargs={"device": "cuda"})
    probe.start()
    probe.join(60)
    if probe.exitcode == 0:
        return FORK
    probe.kill()
    return multiprocessing.get_context("spawn")


def _write(file: Path, content: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(file)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    described = __doc__ + "".join(f"  {name:<10} {part.about}\n" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_parts, default=list(PARTS), metavar="A,B", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", metavar="FOLDER")
    parser.add_argument("--minutes", type=_minutes, default=9.0, help="of all parts together (default: 9)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on the CPU where there is no CUDA device")
    return parser.parse_args(arguments)


def _parts(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {name!r}; choose from {', '.join(PARTS)}")
    return names


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
