"""Methods of the library peft (DoRA, LoKr, LoHa, OFT, IA3, VeRA) with the interface of all methods."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdpet.choices import PEFT_METHODS, check_peft_options
from sdpet.methods.peft_kinds import KINDS, peft_config
from sdpet.methods.saved import check_fit, read_design, read_weights, write_design, write_weights
from sdpet.models.base import BaseModel

_NAME = "default"  # peft's name of the one set of layers
_OWN_PART = re.compile(r"\.(?:lora|lokr|hada|oft|ia3|vera)_")  # where a layer's path ends in the name of a weight


@dataclass(frozen=True)
class PeftSpec:
    """One of peft's methods and its options. Creating the object checks them.

    Parameters
    ----------
    method : str
        One of `sdpet.choices.PEFT_METHODS`.
    size : int, optional
        The rank (dora, lokr, loha, vera) or the size of a block (oft). None for ia3, which has no size.
    scale : float, optional
        Factor on the update, peft's alpha / rank (dora, lokr, loha). None for the other methods, which have none.
    targets : tuple of str, optional
        Endings of the paths of the linear layers that are tuned, such as "to_q" or "ff.net.2". None takes q, k, v and
        out of all attention layers; for ia3, k and v of attention and the output of the feed-forward part.
    options : mapping
        Further arguments of peft's config, those of `sdpet.choices.PEFT_OPTIONS`.

    Raises
    ------
    ValueError
        One sentence that names what is wrong and the valid choices.
    """

    method: str
    size: int | None = None
    scale: float | None = None
    targets: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in PEFT_METHODS:
            raise ValueError(f"method {self.method!r} is not one of peft's; choose one of {', '.join(PEFT_METHODS)}.")
        kind = KINDS[self.method]
        for what, value, takes in (("size", self.size, kind.size), ("scale", self.scale, kind.alpha)):
            if (value is None) == (takes is not None):
                raise ValueError(f"method {self.method!r} {f'needs a {what}' if takes else f'takes no {what}'}.")
        if self.size is not None and (isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1):
            raise ValueError(f"the size must be a whole number of at least 1, not {self.size!r}.")
        check_peft_options(self.method, dict(self.options))

    def words(self) -> str:
        """The method and its options in one line, such as "lokr, size 4, scale 1, decompose_factor 8"."""
        found = {"size": self.size, "scale": self.scale, **self.options}
        given = [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
                 if value is not None]  # fmt: skip
        return ", ".join([self.method, *given, f"targets {' '.join(self.targets or KINDS[self.method].targets)}"])


class PeftTuning:
    """A method of peft on linear layers of the UNet. Step 0 is the base model.

    peft puts its layers in place of the linear ones, and `detach` puts the original layers back. The new weights are
    float32, also in a half-precision UNet.

    Parameters
    ----------
    base : BaseModel
    spec : PeftSpec
        The method and its size.

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

    def __init__(self, base: BaseModel, spec: PeftSpec):
        from peft import get_peft_model, get_peft_model_state_dict

        if spec.method == "vera" and "projection_prng_key" not in spec.options:  # frozen matrices of the run's seed
            spec = PeftSpec(**{**vars(spec), "options": {**spec.options, "projection_prng_key": _random_key()}})
        self._unet, self.spec = base.unet, spec
        paths = target_paths(base.unet, spec)
        self._config = peft_config(spec.method, spec.size, spec.scale, spec.options, paths)
        with _quiet():
            model: Any = get_peft_model(base.unet, self._config, _NAME)  # type: ignore[arg-type]
        self._layers: dict[str, Any] = {path: base.unet.get_submodule(path) for path in paths}
        for layer in self._layers.values():
            layer.to(base.device).eval()  # in training mode some draw from the global generator, for a dropout of 0
        self._weights = [p for layer in self._layers.values() for p in layer.parameters() if p.requires_grad]
        found = get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True), adapter_name=_NAME)
        self._saved: dict[str, torch.Tensor] = dict(found)

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
            layer.set_scale(_NAME, factor)

    def disable(self) -> None:
        """Compute with the original layers, until `enable`."""
        self._enable(False)

    def enable(self) -> None:
        """Undo `disable`."""
        self._enable(True)

    def detach(self) -> None:
        """Put the original layers back. The learned weights stay here and can be saved."""
        for path, layer in self._layers.items():
            if self._unet.get_submodule(path) is layer:
                parent, _, name = path.rpartition(".")
                setattr(self._unet.get_submodule(parent), name, layer.get_base_layer())
        if hasattr(self._unet, "peft_config"):
            del self._unet.peft_config

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
        write_design(folder / self.CONFIG, theirs)
        write_design(folder / self.DESIGN, ours)
        write_weights(folder / self.FILE, self._saved, {"format": "pt"})

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path) -> PeftTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.

        Returns
        -------
        PeftTuning

        Raises
        ------
        ValueError
            If the folder cannot be read, or the saved weights do not fit this UNet.
        """
        spec, tensors = read_peft(folder)
        with torch.random.fork_rng(devices=[]):
            handle = cls(base, spec)
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
    return spec, read_weights(Path(folder) / PeftTuning.FILE)


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


def target_paths(unet: nn.Module, spec: PeftSpec) -> list[str]:
    """Find the linear layers that a method tunes.

    Parameters
    ----------
    unet : nn.Module
    spec : PeftSpec

    Returns
    -------
    list of str
        Their paths, in the order of the UNet.

    Raises
    ------
    ValueError
        If no layer has the name of a target, or projections are fused (`fuse_qkv_projections`), so that what is added
        to them has no effect.
    """
    modules = dict(unet.named_modules())
    if any(getattr(module, "fused_projections", False) for module in modules.values()):
        raise ValueError(
            f"the UNet's attention has fused projections, past which {spec.method} would learn in vain; call "
            "unet.unfuse_qkv_projections() first."
        )
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    targets = spec.targets or KINDS[spec.method].targets
    for target in targets:
        if not any(_ends_with(path, target) for path in linear):
            endings = dict.fromkeys(_ending(path) for path in linear)
            raise ValueError(
                f"adapter.targets: no linear layer of this {type(unet).__name__} is named {target!r}; there are "
                f"{', '.join(endings) or 'none'}."
            )
    return [path for path in linear if any(_ends_with(path, target) for target in targets)]


def nearest_spec(unet: nn.Module, spec: PeftSpec, params: int) -> PeftSpec:
    """The size for which the number of parameters comes nearest to a given one.

    For lokr, which has few parameters at its default way of splitting a matrix, `decompose_factor` is searched as well
    unless it is given.

    Parameters
    ----------
    unet : nn.Module
    spec : PeftSpec
        Its size is ignored.
    params : int
        Number of parameters to aim at.

    Returns
    -------
    PeftSpec
        Of the sizes that come equally near, the smallest.
    """
    kind = KINDS[spec.method]
    if kind.size is None:
        return spec
    shapes: dict[tuple[int, int], int] = {}
    for path in target_paths(unet, spec):
        layer: Any = unet.get_submodule(path)
        shapes[layer.in_features, layer.out_features] = shapes.get((layer.in_features, layer.out_features), 0) + 1
    open_options = {key: values for key, values in kind.searched.items() if key not in spec.options}
    best: tuple[int, PeftSpec] | None = None
    for key, value in [(key, value) for key, values in open_options.items() for value in values] or [("", None)]:
        options = {**spec.options, **({key: value} if key else {})}

        def specimen(size: int, options: Mapping[str, Any] = options) -> PeftSpec:
            return PeftSpec(**{**vars(spec), "size": size, "options": options})

        sizes = _block_sizes(shapes) if kind.size == "oft_block_size" else _around(specimen, shapes, params)
        for size in sizes:
            found = specimen(size)
            distance = abs(count_parameters(found, shapes) - params)
            if best is None or distance < best[0]:
                best = distance, found
    assert best is not None
    return best[1]


def count_parameters(spec: PeftSpec, shapes: Mapping[tuple[int, int], int]) -> int:
    """The number of trained parameters on linear layers of given shapes, as peft makes them.

    Parameters
    ----------
    spec : PeftSpec
    shapes : mapping of (in, out) to int
        How many layers there are of each shape.

    Returns
    -------
    int
    """
    from peft import get_peft_model

    with torch.device("meta"):
        layers = nn.ModuleDict({f"layer{i}": nn.Linear(*shape) for i, shape in enumerate(shapes)})
    config = peft_config(spec.method, spec.size, spec.scale, spec.options, list(layers))
    with _quiet(), torch.random.fork_rng(devices=[]):
        get_peft_model(layers, config, _NAME, low_cpu_mem_usage=True)  # type: ignore[arg-type]
    trained = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers.values()]
    return sum(number * own for number, own in zip(shapes.values(), trained, strict=True))


def carries_peft(unet: nn.Module) -> bool:
    """Whether a UNet contains layers of peft."""
    return any(type(module).__module__.startswith("peft.") for module in unet.modules())


def _around(specimen: Any, shapes: Mapping[tuple[int, int], int], params: int) -> list[int]:
    """The two neighbouring sizes between whose numbers of parameters the wanted one lies; numbers grow with size."""
    low, high = 1, 1
    while (reached := count_parameters(specimen(high), shapes)) < params:
        low, high = high, 2 * high
        if count_parameters(specimen(high), shapes) == reached:  # the matrices are whole and grow no more
            break
    while high - low > 1:
        middle = (low + high) // 2
        if count_parameters(specimen(middle), shapes) < params:
            low = middle
        else:
            high = middle
    return [low, high]


def _block_sizes(shapes: Mapping[tuple[int, int], int]) -> list[int]:
    """The smallest size of each range of sizes that gives the same blocks.

    peft takes the nearest divisor of a layer's width, the lower of two that are equally near. A size of 1 has no
    parameters.
    """
    found = {2}
    for width in {width for width, _ in shapes}:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        found |= {(lower + upper) // 2 + 1 for lower, upper in pairwise(divisors)}
    return sorted(found - {1})


def _ends_with(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _ending(path: str) -> str:
    """The shortest ending of a path that begins with a name, such as "to_q" or "to_out.0"."""
    parts = path.split(".")
    first = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[first:])


def _random_key() -> int:
    return int(torch.randint(2**31 - 1, ()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft's warnings of values that it rounds, such as blocks that do not divide a layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
