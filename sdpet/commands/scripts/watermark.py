"""The invisible watermark of Stable Diffusion's scripts: the bytes "StableDiffusionV1", by dwtDct."""

from __future__ import annotations

from typing import Any

import numpy as np

MARK = b"StableDiffusionV1"
METHOD = "dwtDct"
LEAST_PIXELS = 256 * 256  # the library refuses smaller images
PASSES = 40


def markable(height: int, width: int) -> bool:
    return height * width >= LEAST_PIXELS


class Watermark:
    """Marks images, with invisible-watermark's own encoder and decoder.

    ValueError with what to do where that package, or OpenCV, which it needs, cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            from imwatermark import WatermarkDecoder, WatermarkEncoder
        except ImportError as error:
            reason = " ".join(str(error).split())
            cure = "pip install invisible-watermark"
            if getattr(error, "name", None) != "imwatermark":  # OpenCV with windows needs libraries of the desktop
                cure = "pip install --force-reinstall --no-deps opencv-python-headless"
            raise ValueError(f"the watermark cannot be written ({reason}); mend it by: {cure}.") from error
        self._encoder: Any = WatermarkEncoder()
        self._encoder.set_watermark("bytes", MARK)
        self._decoder: Any = WatermarkDecoder("bytes", 8 * len(MARK))

    def mark(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """The marked image, uint8 (H, W, 3) RGB, and whether the mark can be read in it.

        One pass of the encoder leaves many images unreadable: it changes the largest coefficient of a block, and the
        decoder may then find another one larger. So it is applied until the decoder reads it. That takes 1 to 15 passes
        on photographs and costs little more than the first, as a bit that is in place is written to the same place.
        """
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        for _ in range(PASSES):
            bgr = self._encoder.encode(bgr, METHOD)
            if self._decoder.decode(bgr, METHOD) == MARK:
                return bgr[:, :, ::-1], True
        return bgr[:, :, ::-1], False
