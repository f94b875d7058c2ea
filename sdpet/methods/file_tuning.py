"""The updates of a LoRA file as a method, on the layers that it names, each with its own kind, rank and strength."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.attachment import placed
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.identity import sample_weights
from sdpet.adapters.parts import DENOISERS, UNET, model_at, where_of
from sdpet.adapters.routes import is_fused
from sdpet.adapters.spec import finite
from sdpet.choices import FILE_METHOD, LORA_FILE_DESIGN, LORA_FILE_WEIGHTS
from sdpet.methods.layer_updates import LENGTHS, Added, Settings, Update, kind_of, rank_of
from sdpet.methods.saved import check_base, read_method, save_method
from sdpet.models.base import BaseModel

Layers = Mapping[str, Mapping[str, Tensor]]  # the factors of each layer by its path, which begins with its part


class FileTuning:
    """Adds to what layers give, as if the file's updates were added to their weights.

    The strength is the factor on the change of each weight: 0 is the base model and 1 what the file says, of DoRA as
    well. The new weights are float32 (float64 in a float64 model), also in a half-precision model, and updates that are
    no product of two matrices (DoRA, LoHa, LoKr) are computed anew in every step. Files of several handles, and
    adapters, add up.

    Parameters
    ----------
    base : BaseModel
    layers : mapping of str to mapping of str to Tensor
        The factors of each layer, see `Update`, by paths such as ``unet.mid_block.attentions.0.proj_in``.
    source : object
        Where they are from, for messages.

    Raises
    ------
    ValueError
        If the model has no such layer, or one of another kind or size, or its attention is fused; the sentence names
        the layer.
    """

    DESIGN, FILE = LORA_FILE_DESIGN, LORA_FILE_WEIGHTS

    def __init__(self, base: BaseModel, layers: Layers, source: object = "the file"):
        self.where = where_of(layers)
        model = model_at(base, self.where)
        if self.learns_text and getattr(base, "offload", False):
            raise ValueError(f"{source} changes the text encoder, which is then needed in each step; set "
                             "unet.offload=false.")  # fmt: skip
        model = getattr(model, "_orig_mod", model)  # the module inside the wrapper that torch.compile returns
        if any(is_fused(module) for module in model.modules()):
            raise ValueError(
                f"this model's attention has fused projections, past which {source} would change nothing; call "
                "unfuse_qkv_projections() first."
            )
        self._sample = sample_weights(model)
        self.updates: dict[str, Update] = {}
        found, modules = {}, _by_path(model, self.where)
        for path, factors in layers.items():
            update, layer = Update(factors), modules.get(path)
            if (why := update.misfit(layer)) is not None:
                raise ValueError(f"{source} does not fit this model: its layer {path} {why}.")
            assert layer is not None
            found[path], self.updates[path] = layer, update
        self._settings = Settings()
        # before other hooks: what adapters read of such a layer is what it would give with changed weights
        self._hooks: list[Any] = [
            layer.register_forward_hook(Added(_placed(self.updates[path], layer), self._settings), prepend=True)
            for path, layer in found.items()
        ]
        forget_compiled()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hooks": []}  # the hooks are the model's, and go with that

    @property
    def learns_text(self) -> bool:
        """Whether it changes the text encoder, so that text states are computed in every step."""
        return self.where != UNET

    def parameters(self) -> list[nn.Parameter]:
        """The factors, layer after layer."""
        return [parameter for update in self.updates.values() for parameter in update.parameters()]

    def num_parameters(self) -> int:
        """Number of values in all of them."""
        return sum(parameter.numel() for parameter in self.parameters())

    def __len__(self) -> int:
        """Number of layers that are changed."""
        return len(self.updates)

    def scale(self, strength: float) -> None:
        """Set the factor on what is added: 1 is as the file says, 0 is the base model.

        Parameters
        ----------
        strength : float

        Raises
        ------
        ValueError
            If the strength is not a finite number.
        """
        self._settings.strength = finite("The strength", strength)

    def disable(self) -> None:
        """Compute the base model, until `enable`."""
        self._settings.active = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._settings.active = True

    def detach(self) -> None:
        """Leave the layers as they were. The updates stay here and can be saved."""
        while self._hooks:
            self._hooks.pop().remove()

    def save(self, folder: str | Path) -> None:
        """Write lora_file.json and, last, the factors; both atomically. `export_format` writes them for other tools.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        save_file(Path(folder), {path: update.factors() for path, update in self.updates.items()}, self._sample)

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, strict: bool = False) -> FileTuning:
        """Put the updates that a folder holds on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` or `import_lora` wrote.
        strict : bool
            Whether updates that are known to be made for another base model are an error; by default a warning says so.
            A file of another tool does not say for which model it was made.

        Returns
        -------
        FileTuning

        Raises
        ------
        ValueError
            If the folder cannot be read, or the updates do not fit this model.
        """
        design, layers = read_file(folder)
        check_base(Path(folder), design, model_at(base, where_of(layers)), strict)
        with torch.random.fork_rng(devices=[]):
            return cls(base, layers, folder)


def save_file(folder: Path, layers: Layers, base: list[float] | None = None) -> None:
    """Write what `read_file` reads: lora_file.json and, last, lora_file.safetensors.

    Parameters
    ----------
    folder : Path
    layers : mapping of str to mapping of str to Tensor
        The factors of each layer, by its path.
    base : list of float, optional
        A sample of the weights of the model that they are for, if it is known.
    """
    meta: dict[str, Any] = {"format": 1, "method": FILE_METHOD, "kinds": file_words(layers)}
    if (where := where_of(layers)) != UNET:
        meta["where"] = where
    meta["parameters"] = sum(file_sizes(layers).values())
    named = {f"{path}.{name}": value for path, factors in layers.items() for name, value in factors.items()}
    save_method(folder, FileTuning.DESIGN, meta, FileTuning.FILE, named, base, {"format": "pt"})


def read_file(folder: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read what `save_file` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    (dict, dict of str to dict of str to Tensor)
        The design, and the factors of each layer by its path.

    Raises
    ------
    ValueError
        A file is missing or damaged, or factors of a layer are missing.
    """
    design, tensors = read_method(Path(folder), FileTuning.DESIGN, FileTuning.FILE)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in sorted(tensors.items()):
        path, _, name = key.rpartition(".")
        layers.setdefault(path, {})[name] = value
    broken = next((path for path, factors in layers.items() if kind_of(factors) is None), None)
    if broken is not None or not layers:
        raise ValueError(f"{folder} holds no updates of layers{f': {broken} lacks factors' if broken else ''}.")
    return design, layers


def file_words(layers: Layers) -> str:
    """What a file holds, such as "LoRA of 192 layers, rank 8", or "DoRA of 6 and LoKr of 2 layers, ranks 2 to 4"."""
    kinds = Counter(_kind(factors) for factors in layers.values())
    ranks = {rank for factors in layers.values() if (rank := rank_of(factors)) is not None}
    said = " and ".join(f"{kind} of {count}" for kind, count in kinds.items())
    said += f" layer{'' if [*kinds.values()][-1] == 1 else 's'}"
    if not ranks:
        return said
    return f"{said}, rank {min(ranks)}" if len(ranks) == 1 else f"{said}, ranks {min(ranks)} to {max(ranks)}"


def file_sizes(layers: Layers) -> dict[str, int]:
    """The number of values in the factors of each layer, by its path."""
    return {path: sum(v.numel() for v in factors.values() if v.dim()) for path, factors in layers.items()}


def _kind(factors: Mapping[str, Tensor]) -> str:
    kind = str(kind_of(factors))
    if LENGTHS not in factors:
        return kind
    return "DoRA" if kind == "LoRA" else f"{kind} with DoRA's lengths"


def _by_path(model: nn.Module, where: str) -> dict[str, nn.Module]:
    """The modules of a model, by paths that begin with their part."""
    part = "" if where != UNET else f"{DENOISERS[0 if hasattr(model, 'down_blocks') else 1]}."
    return {part + path: module for path, module in model.named_modules()}


def _placed(update: Update, layer: nn.Module) -> Update:
    placed(update, layer)
    return update
