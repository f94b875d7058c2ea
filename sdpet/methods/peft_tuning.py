"""Methods of the library peft (DoRA, LoKr, LoHa, OFT, IA3, VeRA) with the interface of all methods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdpet.adapters.identity import sample_weights
from sdpet.adapters.parts import UNET, model_at
from sdpet.methods.peft_kinds import KINDS, PeftSpec, peft_config
from sdpet.methods.peft_sizes import NAME, quiet, target_paths
from sdpet.methods.saved import check_base, check_fit, read_design, read_weights, save_method, write_design
from sdpet.models.base import BaseModel

_OWN_PART = re.compile(r"\.(?:lora|lokr|hada|oft|ia3|vera)_")  # where a layer's path ends in the name of a weight


class PeftTuning:
    """A method of peft on linear layers of the UNet, the text encoder or both. Step 0 is the base model.

    peft puts its layers in place of the linear ones, and `detach` puts the original layers back. The new weights are
    float32, also in a half-precision UNet.

    Parameters
    ----------
    base : BaseModel
    spec : PeftSpec
        The method and its size.
    where : {"unet", "text_encoder", "both"}
        The parts of the model, see `sdpet.adapters.model_at`.

    Raises
    ------
    ValueError
        If no layer has the name of a target, or the UNet's projections are fused.

    References
    ----------
    dora: Liu et al. 2024, arXiv 2402.09353. lokr: Edalati et al. 2022, arXiv 2212.10650; Yeh et al. 2023, arXiv
    2309.14859. loha: Hyeon-Woo et al. 2021, arXiv 2108.06098. oft: Qiu et al. 2023, arXiv 2306.07280. ia3: Liu et al.
    2022, arXiv 2205.05638. vera: Kopiczko et al. 2023, arXiv 2310.11454.
    """

    FILE = "adapter_model.safetensors"  # the name that peft's PeftModel.from_pretrained(unet, folder) looks for
    DESIGN, CONFIG = "peft.json", "adapter_config.json"  # sdpet's own description, and peft's config

    def __init__(self, base: BaseModel, spec: PeftSpec, where: str = UNET):
        from peft import get_peft_model, get_peft_model_state_dict

        if spec.method == "vera" and "projection_prng_key" not in spec.options:  # frozen matrices of the run's seed
            spec = PeftSpec(**{**vars(spec), "options": {**spec.options, "projection_prng_key": _random_key()}})
        self._model: Any = model_at(base, where)
        self.spec, self.where = spec, where
        self._sample = sample_weights(self._model)
        paths = target_paths(self._model, spec)
        self._config = peft_config(spec.method, spec.size, spec.scale, spec.options, paths)
        with quiet():
            model: Any = get_peft_model(self._model, self._config, NAME)  # type: ignore[arg-type]
        self._layers: dict[str, Any] = {path: self._model.get_submodule(path) for path in paths}
        for layer in self._layers.values():
            layer.to(base.device).eval()  # in training mode some draw from the global generator, for a dropout of 0
        self._weights = [p for layer in self._layers.values() for p in layer.parameters() if p.requires_grad]
        found = get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True), adapter_name=NAME)
        self._saved: dict[str, torch.Tensor] = dict(found)

    @property
    def learns_text(self) -> bool:
        """Whether it changes the text encoder, so that text states are computed in every step."""
        return self.where != UNET

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained, layer after layer."""
        return self._weights

    def num_parameters(self) -> int:
        """Number of values in all of them."""
        return sum(p.numel() for p in self._weights)

    def __len__(self) -> int:
        """Number of linear layers that are tuned."""
        return len(self._layers)

    def scale(self, factor: float) -> None:
        """Multiply the strength of the updates, for methods that have a scale.

        Parameters
        ----------
        factor : float
            1 leaves the updates as they were trained.

        Raises
        ------
        ValueError
            If the method has no scale (oft, ia3, vera).
        """
        if KINDS[self.spec.method].alpha is None:
            raise ValueError(f"method {self.spec.method!r} has no strength that can be scaled; use 0 or 1.")
        for layer in self._layers.values():
            layer.set_scale(NAME, factor)

    def disable(self) -> None:
        """Compute with the original layers, until `enable`."""
        self._enable(False)

    def enable(self) -> None:
        """Undo `disable`."""
        self._enable(True)

    def detach(self) -> None:
        """Put the original layers back. The learned weights stay here and can be saved."""
        for path, layer in self._layers.items():
            if self._model.get_submodule(path) is layer:
                parent, _, name = path.rpartition(".")
                setattr(self._model.get_submodule(parent), name, layer.get_base_layer())
        if hasattr(self._model, "peft_config"):
            del self._model.peft_config

    def save(self, folder: str | Path) -> None:
        """Write peft's adapter_config.json, peft.json and, last, the weights in peft's format; all atomically.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        folder = Path(folder)
        theirs = {key: sorted(v) if isinstance(v, set) else v for key, v in self._config.to_dict().items()}
        theirs["base_model_name_or_path"], theirs["inference_mode"] = None, True
        ours = {"format": 1, **asdict(self.spec), "parameters": self.num_parameters()}
        ours |= {} if self.where == UNET else {"where": self.where}
        write_design(folder / self.CONFIG, theirs)
        save_method(folder, self.DESIGN, ours, self.FILE, self._saved, self._sample, {"format": "pt"})

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, strict: bool = False) -> PeftTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.
        strict : bool
            Whether weights that were made for another base model are an error; by default a warning says so.

        Returns
        -------
        PeftTuning

        Raises
        ------
        ValueError
            If the folder cannot be read, or the saved weights do not fit this UNet.
        """
        spec, tensors = read_peft(folder)
        design = read_design(Path(folder) / cls.DESIGN)
        where = design.get("where", UNET)
        check_base(Path(folder), design, model_at(base, where), strict)
        with torch.random.fork_rng(devices=[]):
            handle = cls(base, spec, where)
        own = handle._saved
        try:
            check_fit(folder, tensors, own)
        except ValueError:
            handle.detach()
            raise
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(tensors[key])
        return handle

    def _enable(self, on: bool) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(on)
        for parameter in self._weights:
            parameter.requires_grad_(True)  # peft switches gradients off together with the layers


def read_peft(folder: str | Path) -> tuple[PeftSpec, dict[str, torch.Tensor]]:
    """Read what `PeftTuning.save` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    (PeftSpec, dict of str to Tensor)
        The method, and its weights under peft's names.

    Raises
    ------
    ValueError
        If peft.json or the weights cannot be read.
    """
    file = Path(folder) / PeftTuning.DESIGN
    try:
        meta = read_design(file)
        targets = meta["targets"]
        if targets is not None and not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
            raise ValueError(f"targets must be a list of names, not {targets!r}.")
        chosen = {key: meta[key] for key in ("method", "size", "scale", "options")}
        spec = PeftSpec(**chosen, targets=None if targets is None else tuple(targets))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read as the design of a method of peft ({error}).") from None
    return spec, read_weights(Path(folder) / PeftTuning.FILE, meta.get("digest"), PeftTuning.DESIGN)


def layer_sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of trained parameters of each layer in saved weights of peft.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        As `read_peft` returns them.

    Returns
    -------
    dict of str to int
        By the layer's path. Frozen matrices that layers share (vera) belong to none.
    """
    sizes: dict[str, int] = {}
    for key, value in tensors.items():
        layer, own_part = _OWN_PART.split(key.removeprefix("base_model."), maxsplit=1)[0], _OWN_PART.search(key)
        if own_part is not None and layer.startswith("model."):
            sizes[layer.removeprefix("model.")] = sizes.get(layer.removeprefix("model."), 0) + value.numel()
    return sizes


def carries_peft(unet: nn.Module) -> bool:
    """Whether a UNet contains layers of peft."""
    return any(type(module).__module__.startswith("peft.") for module in unet.modules())


def _random_key() -> int:
    return int(torch.randint(2**31 - 1, ()))
