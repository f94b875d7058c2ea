"""Running `sdpet txt2img` and `sdpet img2img` in this process, and reading what they wrote."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def sdpet(*arguments: object) -> int:
    """Exit status of the command line."""
    from sdpet.commands.cli import main

    os.environ.pop("HYDRA_FULL_ERROR", None)  # other tests of this process may have set it
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return 0 if end.code is None else int(end.code)
    return 0


def pictures(folder: Path) -> np.ndarray:
    """uint8 (N, H, W, 3), in order of their names."""
    return np.stack([np.asarray(Image.open(file)) for file in sorted((folder / "samples").glob("*.png"))])


def names(folder: Path) -> list[str]:
    """All files below the folder, hidden ones too."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def decoded(file: Path) -> bytes:
    """What invisible-watermark's own decoder reads in an image file."""
    from imwatermark import WatermarkDecoder

    bgr = np.ascontiguousarray(np.asarray(Image.open(file).convert("RGB"))[:, :, ::-1])
    return WatermarkDecoder("bytes", 8 * 17).decode(bgr, "dwtDct")
