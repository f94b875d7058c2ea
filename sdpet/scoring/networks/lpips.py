"""LPIPS as a measure of diversity, through torchmetrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sdpet.scoring.networks import fetch
from sdpet.scoring.networks.openclip import hash_weights

NETS = ("alex", "vgg", "squeeze")


class LpipsScorer:
    """Perceptual distance between pairs of images, with the linear weights that torchmetrics ships.

    Parameters
    ----------
    net : {"alex", "vgg", "squeeze"}
        The network that LPIPS is based on.
    weights : str, optional
        Path of torchvision's ImageNet weights of that network; None downloads them once.
    device : str
        Device of the network.

    Raises
    ------
    ValueError
        One sentence: an unknown network, or its weights are not available.

    References
    ----------
    Zhang et al. 2018, arXiv 1801.03924.
    """

    preparation: ClassVar[dict[str, str]] = {
        "resize": "none",
        "crop": "none",
        "value_range": "-1 to 1",
        "dtype": "float32",
    }

    def __init__(self, net: str = "alex", weights: str | None = None, device: str = "cpu"):
        from torchmetrics.functional.image import lpips

        if net not in NETS:
            raise ValueError(f"LPIPS knows no network {net!r}; choose one of {', '.join(NETS)}.")
        try:
            if weights is None:
                fetch.need_from_url(_torchvision_url(net))
            network: Any = lpips._NoTrainLpips(net=net, pnet_rand=weights is not None)  # type: ignore[arg-type]
            if weights is not None:
                stored = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
                # torchmetrics splits the network into slices but keeps the layers' numbers: slice2.3 is features.3.
                own = network.net.state_dict()
                network.net.load_state_dict({key: stored["features." + key.split(".", 1)[1]] for key in own})
        except Exception as error:
            raise ValueError(
                f"the weights of LPIPS's network {net} could not be fetched or read ({fetch.reason(error)}); give the "
                "path of torchvision's file on this machine."
            ) from error
        self.name = f"lpips-{net}"
        self.weight_hash = hash_weights(network)
        self._network = network.requires_grad_(False).eval().to(device)
        self._device = device

    @torch.no_grad()
    def distances(self, first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        """Distance of each image of `first` to the image of `second` at the same index.

        Parameters
        ----------
        first, second : ndarray of uint8, (N, H, W, 3)
            The images.

        Returns
        -------
        Tensor of float64, (N,)
        """
        found = []
        for start in range(0, len(first), 32):
            pair = [
                torch.from_numpy(np.ascontiguousarray(side[start : start + 32])).permute(0, 3, 1, 2) / 127.5 - 1
                for side in (first, second)
            ]
            found.append(self._network(*(side.to(self._device) for side in pair)).flatten().double().cpu())
        return torch.cat(found)


def _torchvision_url(net: str) -> str:
    from torchvision import models

    weights: Any = {
        "alex": models.AlexNet_Weights,
        "vgg": models.VGG16_Weights,
        "squeeze": models.SqueezeNet1_1_Weights,
    }
    return weights[net].IMAGENET1K_V1.url
