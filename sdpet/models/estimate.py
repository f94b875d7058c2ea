"""Size of a model and a design, and memory of a training step, without loading weights.

Networks are built on torch's meta device, where tensors have shapes and no values. Activations are counted, not
guessed: the forward pass runs on the meta device, and the sizes of all tensors that autograd saves are summed.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.choices import DTYPES
from sdpet.models.estimate_functions import autocast, fused_attention
from sdpet.models.pipeline_folder import PARTS_WITH_WEIGHTS
from sdpet.models.source import Source

BYTES = {name: getattr(torch, name).itemsize for name in DTYPES}


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs at its peak, without torch itself and short-lived workspace.

    Parameters
    ----------
    weights : int
        Of the frozen model; with full fine-tuning, of the copy of the original.
    trainable : int
        Of the trained weights, in float32.
    gradients : int
    optimizer : int
        AdamW keeps two values for each trained weight.
    activations : int
        Tensors that autograd saves between forward and backward pass, copies of weights in lower precision among them.
    gradients_stay : bool
        Whether gradients of earlier parts of a batch are there in the forward pass (accumulation).
    """

    weights: int
    trainable: int
    gradients: int
    optimizer: int
    activations: int
    gradients_stay: bool = False

    @property
    def total(self) -> int:
        """All parts together. Gradients are made while the backward pass frees activations."""
        passing = (self.gradients, self.activations)
        return self.weights + self.trainable + self.optimizer + (sum if self.gradients_stay else max)(passing)


def on_meta(source: Source) -> dict[str, nn.Module]:
    """Build the networks that a source's configs describe on the meta device, by their names in `BaseModel`."""
    networks = {part: part_on_meta(source, part) for part in source.parts if part in PARTS_WITH_WEIGHTS}
    named = {"unet" if part == source.denoiser else part: network for part, network in networks.items()}
    return {name: network.requires_grad_(False).eval() for name, network in named.items()}


def part_on_meta(source: Source, part: str) -> Any:
    """Build one part of a source, such as "vae", on the meta device."""
    from sdpet.models.load import network_class

    kind, config = network_class(source, part), source.config(part)
    with torch.device("meta"):
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def step_memory(
    networks: Mapping[str, nn.Module],
    trained: Sequence[Tensor],
    rows: int,
    latent_side: int,
    dtype: str = "float32",
    precision: str = "32-true",
    checkpointing: bool = False,
    through_text: bool = False,
    accumulate: int = 1,
) -> Memory:
    """Estimate the memory of one training step.

    Parameters
    ----------
    networks : mapping of str to nn.Module
        As `on_meta` returns them; the adapters must be attached to the UNet.
    trained : sequence of Tensor
        The trained parameters.
    rows : int
        Number of images in the batch.
    latent_side : int
        Side of the latents.
    dtype : str
        Of the frozen weights.
    precision : str
        Lightning's name. With mixed precision activations are of the dtypes that `torch.autocast` gives them, and
        autograd keeps a copy of the UNet's float32 weights in that precision.
    checkpointing, through_text : bool
        See `activation_bytes`.
    accumulate : int
        Number of parts of a batch whose gradients are added up.

    Returns
    -------
    Memory
    """
    unet = networks["unet"]
    mixed = precision.endswith("-mixed")
    weights = sum(count(network) for network in networks.values()) * BYTES[dtype]
    trainable = sum(parameter.numel() for parameter in trained)
    activations = activation_bytes(
        unet, rows, latent_side, checkpointing, trained, through_text, dtype if mixed else None
    )
    if not mixed and dtype != "float32":
        activations //= 2
    return Memory(weights, 4 * trainable, 4 * trainable, 8 * trainable, activations, accumulate > 1)


def activation_bytes(
    unet: Any,
    rows: int,
    latent_side: int,
    checkpointing: bool = False,
    trained: Sequence[Tensor] = (),
    through_text: bool = False,
    mixed: str | None = None,
) -> int:
    """Count the bytes that autograd saves in a forward pass of a float32 UNet or transformer.

    Parameters
    ----------
    unet : UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel or PixArtTransformer2DModel
        On the meta device, or any other.
    rows, latent_side : int
        Number of latents in the batch, and their side.
    checkpointing : bool
        Gradient checkpointing as in diffusers, for each ResBlock and transformer block: their inputs count, and in
        addition the largest number of bytes that one of them saves.
    trained : sequence of Tensor
        Trained parameters that are not the UNet's own. Weights are not counted as activations.
    through_text : bool
        Whether gradients flow back through the text states (to a token's embedding). Activations of the text encoder
        are not counted.
    mixed : str, optional
        With mixed precision: the dtype of the frozen weights, which is that of the latents. Of weights in float32,
        the copies in lower precision count.

    Returns
    -------
    int
    """
    call = inputs(unet, rows, latent_side, through_text)
    if mixed:
        call = {name: _as(value, getattr(torch, mixed)) for name, value in call.items()}
    casting = autocast()
    keeper = _Keeper(unet, trained, () if mixed == "float32" else casting.copies)
    saving = torch.autograd.graph.saved_tensors_hooks(keeper.keep, lambda x: x)
    try:
        with torch.enable_grad(), fused_attention(), casting if mixed else nullcontext(), saving:
            unet(**call)
    finally:
        keeper.leave()
    return keeper.checkpointed() if checkpointing else keeper.total()


def inputs(unet: Any, rows: int, latent_side: int, through_text: bool = False) -> dict[str, Tensor | Any]:
    """Zeros that a denoiser takes, by the names of its arguments; see `activation_bytes`."""
    from sdpet.models.families.flux import T5_LENGTH as FLUX_LENGTH
    from sdpet.models.families.pixart import T5_LENGTH as PIXART_LENGTH
    from sdpet.models.families.stable_diffusion_3 import T5_LENGTH as SD3_LENGTH

    config = unet.config
    kind = type(unet).__name__
    with torch.device(unet.device):
        latents = torch.zeros(rows, config.in_channels, latent_side, latent_side)
        time = torch.zeros(rows)

        def text(length: int, width: int) -> Tensor:
            return torch.zeros(rows, length, width, requires_grad=through_text)

        if kind == "SD3Transformer2DModel":
            states = text(77 + SD3_LENGTH, config.joint_attention_dim)
            pooled = torch.zeros(rows, config.pooled_projection_dim)
            own = {"encoder_hidden_states": states, "pooled_projections": pooled}
            return {"hidden_states": latents, "timestep": time, **own}
        if kind == "FluxTransformer2DModel":
            tokens = (latent_side // 2) ** 2
            return {
                "hidden_states": torch.zeros(rows, tokens, config.in_channels),
                "encoder_hidden_states": text(FLUX_LENGTH, config.joint_attention_dim),
                "pooled_projections": torch.zeros(rows, config.pooled_projection_dim),
                "timestep": time,
                "guidance": torch.zeros(rows) if config.guidance_embeds else None,
                "txt_ids": torch.zeros(FLUX_LENGTH, 3),
                "img_ids": torch.zeros(tokens, 3),
            }
        if kind == "PixArtTransformer2DModel":
            return {
                "hidden_states": latents,
                "encoder_hidden_states": text(PIXART_LENGTH, config.caption_channels),
                "timestep": time,
                "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
            }
        call: dict[str, Any] = {"sample": latents, "timestep": time.long()}
        call["encoder_hidden_states"] = text(77, config.cross_attention_dim)
        if config.addition_embed_type == "text_time":
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            sizes = torch.zeros(rows, 6)
            call["added_cond_kwargs"] = {"text_embeds": torch.zeros(rows, width), "time_ids": sizes}
        return call


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def checkpointed_classes(unet: nn.Module) -> tuple[str, ...]:
    """Classes of the modules that gradient checkpointing computes again."""
    if hasattr(unet, "down_blocks"):
        return ("ResnetBlock2D", "BasicTransformerBlock")
    return ("JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock", "BasicTransformerBlock")


class _Keeper:
    """Sums the sizes of storages that autograd saves, for each block."""

    def __init__(self, unet: nn.Module, trained: Sequence[Tensor], copies: Container[int]) -> None:
        self._weights = {_name(parameter) for parameter in (*unet.parameters(), *trained)}
        self._copies = copies
        self._alive: list[Tensor] = []  # a freed storage's address could be used again
        self._seen: set[int] = set()
        self._now = ""
        self._kept: dict[str, dict[int, int]] = {}  # by block, bytes by the name of the storage
        self._entered: list[Tensor] = []  # inputs of the blocks
        self._hooks = []
        for name, module in unet.named_modules():
            if type(module).__name__ in checkpointed_classes(unet):
                self._hooks.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._exit))

    def keep(self, tensor: Tensor) -> Tensor:
        name = _name(tensor)
        if name not in self._weights and name not in self._seen and name not in self._copies:
            self._seen.add(name)
            self._alive.append(tensor)
            self._kept.setdefault(self._now, {})[name] = tensor.untyped_storage().nbytes()
        return tensor

    def total(self) -> int:
        return sum(sum(own.values()) for own in self._kept.values())

    def checkpointed(self) -> int:
        outside = {_name(tensor): tensor.untyped_storage().nbytes() for tensor in self._entered}
        outside |= self._kept.get("", {})
        inside = [sum(size for name, size in own.items() if name not in outside) for own in self._kept.values()]
        return sum(outside.values()) + max(inside, default=0)

    def leave(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, given: tuple, named: dict[str, Any]) -> None:
            self._now = name
            self._entered += [value for value in (*given, *named.values()) if isinstance(value, Tensor)]

        return enter

    def _exit(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._now = ""


def _name(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
