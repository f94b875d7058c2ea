"""From a placement and a model to routes: in which blocks an adapter reads and writes, where, and with which widths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from torch import nn

from sdpet.adapters.tables import BlockTable, Place, other_variant, supported, table_of


@dataclass(frozen=True)
class Route:
    """The way of one adapter through one block.

    Parameters
    ----------
    block : nn.Module
    source, target : Place
        Where it reads and writes.
    """

    block: nn.Module
    source: Place
    target: Place

    @property
    def c_in(self) -> int:
        """Channels of what the adapter reads."""
        return attrgetter(self.source.width)(self.block)

    @property
    def c_out(self) -> int:
        """Channels of what it writes."""
        return attrgetter(self.target.written_width or self.target.width)(self.block)

    @property
    def layout(self) -> Literal["tokens", "map"]:
        """Shape of what it reads and writes: (B, N, channels) or (B, channels, H, W)."""
        return self.source.layout

    @property
    def groups(self) -> int | None:
        """Groups of the block's own norm of the channels that are read, or None without one."""
        return attrgetter(self.source.groups)(self.block) if self.source.groups else None

    @property
    def shape(self) -> tuple[int, int, str, int | None]:
        """All that the adapter's function must fit: c_in, c_out, layout and groups."""
        return self.c_in, self.c_out, self.layout, self.groups


def find_routes(model: nn.Module, din: str, dout: str) -> dict[str, Route]:
    """Find the blocks of a model that have both positions of a placement.

    Parameters
    ----------
    model : nn.Module
        diffusers' UNet or transformer, or any module that holds blocks of classes that have a table.
    din, dout : str

    Returns
    -------
    dict of str to Route
        By path of the block. A block without a needed submodule, such as the text stream's end in SD3's last block, is
        left out.

    Raises
    ------
    ValueError
        If there is none; the message names the placements of this model, or the block classes that are supported.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"Adapters attach to a UNet or transformer, not to {type(model).__name__}; of a pipeline pass `pipe.unet` "
            "or `pipe.transformer`."
        )
    model = getattr(model, "_orig_mod", model)  # the module inside the wrapper that torch.compile returns
    _refuse_variants(model, din)
    found = {}
    for path, block, table in _blocks(model):
        source, target = table.place(din), table.place(dout)
        if source is None or target is None or dout not in table.outputs(din):
            continue
        if _has(block, source) and _has(block, target):
            _refuse_fused(path, block, source, target)
            found[path] = Route(block, source, target)
    if not found:
        raise ValueError(_nothing_found(model, f"{din}-{dout}"))
    return found


def carriers(model: nn.Module) -> tuple[str, ...]:
    """The paths of a model's blocks that have a table, whatever placement they can carry."""
    return tuple(path for path, _, _ in _blocks(getattr(model, "_orig_mod", model)))


def placements_of(model: nn.Module) -> tuple[str, ...]:
    """The placements that at least one block of a model has, in datapath order.

    Parameters
    ----------
    model : nn.Module
        May be on the meta device.

    Returns
    -------
    tuple of str
        Each written ``din-dout``; those at projections are among them.
    """
    found: dict[str, None] = {}
    for _, block, table in _blocks(getattr(model, "_orig_mod", model)):
        places = {place.name for place in table.places if _has(block, place)}
        found |= dict.fromkeys(p for p in table.placements if set(p.split("-")) <= places)
    return tuple(found)


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, BlockTable]]:
    """Path, block and table of every block that can carry an adapter."""
    for path, module in model.named_modules():
        table = table_of(module)
        if path and table is not None and not any(getattr(module, name, False) for name in table.skip):
            yield path, module, table


def _refuse_variants(model: nn.Module, din: str) -> None:
    for path, module in model.named_modules():
        if cause := other_variant(module, din):
            raise ValueError(f"{path} cannot carry adapters: {cause}.")


def _has(block: nn.Module, place: Place) -> bool:
    """Whether a block has the submodules of a place."""
    return all(_submodule(block, path) is not None for path in place.paths)


def _submodule(block: nn.Module, path: str) -> Any:
    module: Any = block
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _refuse_fused(path: str, block: nn.Module, *places: Place) -> None:
    for place in places:
        if place.fusible and is_fused(attrgetter(place.fusible)(block)):
            raise ValueError(
                f"the attention in {path} has fused projections, so {place.name} has no effect; call "
                "unfuse_qkv_projections() first."
            )


def is_fused(attention: Any) -> bool:
    """Whether an attention module computes with fused projections, past its own to_q, to_k and to_v."""
    if "Fused" in type(getattr(attention, "processor", None)).__name__:
        return True
    # diffusers' older Attention keeps the mark after unfusing; there the processor says it
    return hasattr(attention, "unfuse_projections") and bool(attention.fused_projections)


def _nothing_found(model: nn.Module, placement: str) -> str:
    name = getattr(model, "words", type(model).__name__)
    if placements := placements_of(model):
        return f"No block of this {name} has the placement {placement}; choose one of {', '.join(placements)}."
    others = sorted({type(m).__name__ for m in model.modules() if type(m).__name__.endswith("Block")})
    has = f" It has {', '.join(others)}." if others else ""
    return (
        f"This {name} has no block that can carry an adapter at {placement}.{has} Supported are "
        f"{', '.join(supported())}; add_table adds a block class of your own."
    )
