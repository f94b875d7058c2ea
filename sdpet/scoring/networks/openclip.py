"""Any open_clip model as a scorer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from sdpet.models.text import note_cut
from sdpet.scoring.networks import fetch


class OpenClipScorer:
    """Image and text features of an open_clip model, with that model's own preprocessing (PIL, antialiased).

    The default is the paper's CLIP ViT-B/32 of OpenAI.

    Parameters
    ----------
    model : str
        open_clip's name of the architecture.
    pretrained : str
        One of open_clip's tags for it, downloaded once, or the path of a checkpoint.
    device : str
        Device of the network.

    Raises
    ------
    ValueError
        One sentence: an unknown model or tag, or the weights cannot be fetched or read.

    References
    ----------
    Radford et al. 2021, arXiv 2103.00020 (CLIP); Ilharco et al. 2021, doi 10.5281/zenodo.5143773 (OpenCLIP).
    """

    def __init__(self, model: str = "ViT-B-32-quickgelu", pretrained: str = "openai", device: str = "cpu"):
        import open_clip

        if model not in open_clip.list_models():
            raise ValueError(f"open_clip knows no model {model!r}; `open_clip.list_models()` lists the choices.")
        tags = open_clip.list_pretrained_tags_by_model(model)
        if pretrained not in tags and not Path(pretrained).is_file():
            raise ValueError(f"{pretrained!r} is neither a checkpoint here nor a tag of {model} ({', '.join(tags)}).")
        try:
            if not Path(pretrained).is_file():
                _need(open_clip.get_pretrained_cfg(model, pretrained))
            clip, preprocess = open_clip.create_model_from_pretrained(model, pretrained=pretrained, device=device)
        except Exception as error:
            raise ValueError(
                f"the weights {pretrained!r} of the scorer {model} could not be fetched or read "
                f"({fetch.reason(error)}); give the path of a checkpoint on this machine, or take eval=lab."
            ) from error
        self.name = f"{model}/{pretrained}" if pretrained in tags else model
        self.preparation = _preparation(clip)
        self._clip = clip.requires_grad_(False).eval()
        self._preprocess, self._tokenize, self._device = preprocess, open_clip.get_tokenizer(model), device
        self.weight_hash = hash_weights(clip)

    @torch.no_grad()
    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, D) of images uint8 (N, 3, H, W), not scaled to unit length."""
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        pixels = torch.stack([self._preprocess(picture) for picture in pictures]).to(self._device)
        return self._clip.encode_image(pixels).float()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, D) of images uint8 (N, 3, H, W)."""
        return torch.nn.functional.normalize(self.encode_raw(images), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors (N, D) of texts."""
        for text, end in zip(texts, self._left_out(texts), strict=True):
            note_cut(text, end, "The scorer's text encoder")
        return self._clip.encode_text(self._tokenize(texts).to(self._device), normalize=True).float()

    def _left_out(self, texts: list[str]) -> list[str]:
        """The end of each text that does not fit; empty for tokenizers that cannot say."""
        read, length = getattr(self._tokenize, "encode", None), getattr(self._tokenize, "context_length", None)
        if read is None or length is None:
            return [""] * len(texts)
        rest = [read(text)[length - 2 :] for text in texts]
        return [self._tokenize.decode(ids).strip() if ids else "" for ids in rest]


def _need(source: dict[str, Any]) -> None:
    repo, url = str(source.get("hf_hub") or "").strip("/"), source.get("url")
    if repo:
        fetch.need_from_hub(repo, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
    elif url:
        fetch.need_from_url(url)


def _preparation(clip: torch.nn.Module) -> dict[str, Any]:
    """Describe in words what open_clip's preprocessing of this model does."""
    given: Any = getattr(clip.visual, "preprocess_cfg", None) or {}
    size = getattr(clip.visual, "image_size", None)
    return {
        "resize": f"{given.get('interpolation')}, antialiased, {given.get('resize_mode')} side to {size} (PIL)",
        "crop": "centre",
        "value_range": f"mean {list(given.get('mean') or ())}, std {list(given.get('std') or ())}",
        "dtype": "float32",
    }


def hash_weights(model: torch.nn.Module) -> str:
    """Hash of a model's state dict.

    Parameters
    ----------
    model : Module
        Any module; names, shapes and values of its state dict are hashed.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
