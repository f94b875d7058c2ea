"""The Inception v3 of FID as a scorer, through torch-fidelity (a conversion of the original TensorFlow network)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdpet.scoring.networks import fetch
from sdpet.scoring.networks.openclip import hash_weights

SIDE = 299
RESIZES = {
    "antialiased": "bicubic, antialiased, to 299 (PIL, 8 bit)",
    "original": "bilinear, not antialiased, to 299 (as in TensorFlow 1)",
}


class InceptionScorer:
    """The 2,048 pooled features of Inception v3 on which FID and KID are defined.

    Parameters
    ----------
    weights : str, optional
        Path of torch-fidelity's weights file; None downloads it once.
    resize : {"antialiased", "original"}
        How images are resized to 299 x 299: bicubic with antialiasing, as most current FIDs do, or as the first FIDs
        did.
    device : str
        Device of the network.

    Raises
    ------
    ValueError
        One sentence: an unknown resize, or the network is not available.

    References
    ----------
    Heusel et al. 2017, arXiv 1706.08500 (FID). Resizing: Parmar et al. 2022, arXiv 2104.11222.
    """

    def __init__(self, weights: str | None = None, resize: str = "antialiased", device: str = "cpu"):
        if resize not in RESIZES:
            raise ValueError(f"Inception's resize {resize!r} is unknown; choose {' or '.join(RESIZES)}.")
        if weights is not None and not Path(weights).expanduser().is_file():
            raise ValueError(f"Inception's weights {weights} do not exist; give the path of torch-fidelity's file.")
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError("Inception needs the package torch-fidelity: pip install torch-fidelity.") from None
        path = None if weights is None else str(Path(weights).expanduser())
        try:
            if path is None:
                fetch.need_from_url(URL_INCEPTION_V3)
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
        except Exception as error:
            raise ValueError(
                f"Inception's weights could not be fetched or read ({fetch.reason(error)}); give the path of "
                "torch-fidelity's file on this machine."
            ) from error
        self.name = "inception-v3-compat"
        self.weight_hash = hash_weights(network)
        self.preparation = {"resize": RESIZES[resize], "crop": "none", "value_range": "-1 to 1", "dtype": "float32"}
        self._network: Any = network.to(device)
        self._device, self._antialiased = device, resize == "antialiased"

    @torch.no_grad()
    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, 2048) of images uint8 (N, 3, H, W)."""
        return torch.cat([self._network(self._sized(part).to(self._device))[0] for part in images.split(32)])

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, 2048) of images uint8 (N, 3, H, W)."""
        return torch.nn.functional.normalize(self.encode_raw(images), dim=1)

    def _sized(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (N, 3, 299, 299), or of their own size where the network itself resizes in the original way."""
        if not self._antialiased or images.shape[2:] == (SIDE, SIDE):
            return images
        import numpy as np
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        sized = [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in pictures]
        return torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2)
