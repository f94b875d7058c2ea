"""Tables of taps: for each block class of diffusers and of CLIP, where its positions are. Free of torch.

Files, one a family: table (what a table is made of), unet (UNets), joint (SD3, SD3.5, Flux's double blocks,
Qwen-Image), single (Flux's single blocks), cross (PixArt, Sana, Wan), text (CLIP's text encoder). Classes are named,
not imported. `add_table` adds a table for a class of one's own.
"""

from sdpet.adapters.tables import cross, joint, single, text, unet
from sdpet.adapters.tables.table import BlockTable, Place, Tap, attention_projections, feed_forward_projections
from sdpet.adapters.tables.table import projection as projection

__all__ = [
    "TABLES",
    "UNET_TABLES",
    "BlockTable",
    "Place",
    "Tap",
    "add_table",
    "attention_projections",
    "feed_forward_projections",
    "other_variant",
    "projection",
    "supported",
    "table_of",
]

UNET_TABLES: tuple[BlockTable, ...] = (unet.TRANSFORMER, unet.RESNET)
TABLES: list[BlockTable] = [
    *UNET_TABLES,
    joint.SD3,
    joint.FLUX,
    joint.QWEN,
    single.FLUX,
    cross.PIXART,
    cross.SANA,
    cross.WAN,
    text.CLIP,
]


def add_table(table: BlockTable) -> None:
    """Add a table for a block class of one's own, so that adapters can be attached to its blocks.

    It holds for the process: a program that attaches, loads or trains adapters in such blocks calls it first, best
    where the class is defined. The same table may be added twice.

    Parameters
    ----------
    table : BlockTable

    Raises
    ------
    ValueError
        If another table describes the class already, or gives a position another stream than here.

    Examples
    --------
    >>> add_table(BlockTable("MyBlock", package="my_lab", places=(
    ...     Place("attn1i", (Tap("", "in", "x"),), (Tap("", "in", "x"),), "dim"),
    ...     Place("transo", (Tap("", "out"),), (Tap("", "out"),), "dim"),
    ... )))
    """
    if table in TABLES:
        return
    for known in TABLES:
        if (known.block, known.package) == (table.block, table.package) and known.only == table.only:
            raise ValueError(f"{table.package} {table.block} has a table already.")
        for place in table.places:
            other = known.place(place.name)
            if other is not None and other.stream != place.stream:
                raise ValueError(
                    f"{place.name} of {table.block} is in stream {place.stream!r}, but in {known.block} it is in "
                    f"{other.stream!r}; give it another name."
                )
    TABLES.append(table)


def table_of(block: object) -> BlockTable | None:
    """Find the table of a block.

    Parameters
    ----------
    block : object
        A module; its class, or one that it inherits from, is looked up by name and package.

    Returns
    -------
    BlockTable or None
        None if the class is in no table, or in another variant than the tables describe.
    """
    return next((table for table in _of_class(block) if not _differences(block, table)), None)


def other_variant(block: object, position: str) -> str | None:
    """Say why a block has no table although other variants of its class do.

    Parameters
    ----------
    block : object
    position : str

    Returns
    -------
    str or None
        The cause in words. None if it has a table, or no variant has the position.
    """
    tables = [table for table in _of_class(block) if table.place(position) is not None]
    differences = [_differences(block, table) for table in tables]
    if not tables or not all(differences):
        return None
    name = differences[0][0]
    variants = " or ".join(repr(table.only[name]) for table in tables)
    return f"its {name} is {getattr(block, name)!r}; adapters at {position} support {variants} only"


def _of_class(block: object) -> list[BlockTable]:
    """The tables of a block's class, or of the nearest class that it inherits from and that has any."""
    for cls in type(block).__mro__:
        key = (cls.__name__, cls.__module__.partition(".")[0])
        if tables := [table for table in TABLES if (table.block, table.package) == key]:
            return tables
    return []


def _differences(block: object, table: BlockTable) -> list[str]:
    """Attributes in which a block differs from the variant that a table describes."""
    return [name for name, value in table.only.items() if getattr(block, name, value) != value]


def supported() -> tuple[str, ...]:
    """Names of the block classes that have a table."""
    return tuple(dict.fromkeys(table.block for table in TABLES))
