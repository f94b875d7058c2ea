"""DINO and DINOv2 as scorers of image similarity, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from sdpet.scoring.networks import fetch
from sdpet.scoring.networks.openclip import hash_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in the models' training


class DinoScorer:
    """The class token of a vision transformer trained without labels, such as facebook/dino-vits16 or dinov2-base.

    The mean cosine over pairs of its features is the DINO metric of DreamBooth.

    Parameters
    ----------
    model : str
        Name on the Hugging Face hub, downloaded once, or a folder with config.json and weights.
    device : str
        Device of the network.

    Raises
    ------
    ValueError
        One sentence: the weights cannot be fetched or read.

    References
    ----------
    Caron et al. 2021, arXiv 2104.14294; Oquab et al. 2023, arXiv 2304.07193 (DINOv2).
    The metric: Ruiz et al. 2022, arXiv 2208.12242, section 4.2.
    """

    preparation: ClassVar[dict[str, str]] = {
        "resize": "bicubic, antialiased, shortest side to 256 (PIL)",
        "crop": "centre 224",
        "value_range": f"mean {list(MEAN)}, std {list(STD)}",
        "dtype": "float32",
    }

    def __init__(self, model: str = "facebook/dino-vits16", device: str = "cpu"):
        from torchvision import transforms
        from transformers import AutoModel

        try:
            if not Path(model).expanduser().is_dir():
                fetch.need_from_hub(model, ("model.safetensors", "pytorch_model.bin"))
            network = AutoModel.from_pretrained(model, dtype=torch.float32)
        except Exception as error:
            raise ValueError(
                f"the weights of {model!r} could not be fetched or read ({fetch.reason(error)}); give a folder with "
                "config.json and model.safetensors on this machine."
            ) from error
        here = Path(model).expanduser().is_dir()
        # A path does not identify the model; the hash of its weights does.
        self.name = str(network.config.model_type) if here else model
        self.weight_hash = hash_weights(network)
        self._network: Any = network.requires_grad_(False).eval().to(device)
        self._device = device
        self._prepare = transforms.Compose(
            [
                transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    @torch.no_grad()
    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """The class token after the last norm (N, D) of images uint8 (N, 3, H, W)."""
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        found = []
        for start in range(0, len(pictures), 32):
            pixels = torch.stack([self._prepare(picture) for picture in pictures[start : start + 32]])
            found.append(self._network(pixel_values=pixels.to(self._device)).last_hidden_state[:, 0].float())
        return torch.cat(found)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, D) of images uint8 (N, 3, H, W)."""
        return torch.nn.functional.normalize(self.encode_raw(images), dim=1)
