"""Memory that files of weights take on the host while they are read, beside the weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from sdpet.models.estimate import BYTES, count
from sdpet.models.pipeline_folder import weights_of
from sdpet.models.source import Source

WIDEST = 4  # bytes of a number in a file, at most: averages and optimiser states beside the weights are not touched
ALIKE = 0.1  # by what share a file may differ from its weights (header, buffers) and have their dtype


def mapped_bytes(source: Source, networks: Mapping[str, nn.Module], dtype: Callable[[str], str]) -> int:
    """Estimate the pages of files that are in memory while weights are read. The system drops them if it needs to.

    Parameters
    ----------
    source : Source
        Its files are there.
    networks : mapping of str to nn.Module
        As `on_meta` returns them.
    dtype : callable
        Takes the name of a part, such as "vae", and returns the dtype that its weights get.

    Returns
    -------
    int
        Of a checkpoint, all that is read: it stays mapped until every part has its weights. Of a folder, the largest
        part that is converted to another dtype: parts are read in turn, and unconverted weights are the file's pages.
    """
    if source.is_checkpoint:
        return min(source.path.stat().st_size, WIDEST * sum(count(network) for network in networks.values()))
    mapped = [0]
    for name, network in networks.items():
        part = source.denoiser if name == "unet" else name
        size = _file_bytes(source.folder(part), source.variant(part))
        own = count(network) * BYTES[dtype(part)]
        if abs(size - own) > ALIKE * own:
            mapped.append(size)
    return max(mapped)


def _file_bytes(folder: Path, variant: str | None) -> int:
    return sum(file.stat().st_size for file in weights_of(folder, variant))
