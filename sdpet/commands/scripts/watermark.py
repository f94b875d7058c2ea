"""The invisible watermark of Stable Diffusion's scripts: the bytes "StableDiffusionV1", by dwtDct."""

from __future__ import annotations

from typing import Any

import numpy as np

MARK = b"StableDiffusionV1"
METHOD = "dwtDct"
LEAST_PIXELS = 256 * 256  # the library refuses smaller images
PASSES = 40


def markable(height: int, width: int) -> bool:
    """Whether an image of this size can have a watermark."""
    return height * width >= LEAST_PIXELS


class Watermark:
    """Adds the watermark to images, with the encoder and decoder of the package invisible-watermark.

    Raises ValueError, with the command that helps, if this package or OpenCV, which it needs, cannot be imported.
    """

    def __init__(self) -> None:
        try:
            from imwatermark import WatermarkDecoder, WatermarkEncoder
        except ImportError as error:
            reason = " ".join(str(error).split())
            cure = "pip install invisible-watermark"
            if getattr(error, "name", None) != "imwatermark":  # OpenCV with GUI support needs desktop libraries
                cure = "pip install --force-reinstall --no-deps opencv-python-headless"
            raise ValueError(f"the watermark cannot be written ({reason}); to correct this: {cure}.") from error
        self._encoder: Any = WatermarkEncoder()
        self._encoder.set_watermark("bytes", MARK)
        self._decoder: Any = WatermarkDecoder("bytes", 8 * len(MARK))

    def mark(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """Add the watermark to an image.

        After one pass of the encoder, the decoder cannot read many images: the encoder changes the largest coefficient
        of a block, and then another coefficient may be the largest. So the encoder is applied until the decoder can
        read the watermark. This takes 1 to 15 passes on photographs. Later passes change little, because a bit that can
        be read already is written to the same coefficient.

        Parameters
        ----------
        image : ndarray
            uint8 (H, W, 3), RGB.

        Returns
        -------
        image : ndarray
            The marked image, uint8 (H, W, 3), RGB.
        readable : bool
            Whether the watermark can be read from it.
        """
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        for _ in range(PASSES):
            bgr = self._encoder.encode(bgr, METHOD)
            if self._decoder.decode(bgr, METHOD) == MARK:
                return bgr[:, :, ::-1], True
        return bgr[:, :, ::-1], False
