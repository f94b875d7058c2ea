"""The contents of a checkpoint file, read without torch and without executing anything that is pickled in it.

`torch.save` writes a zip archive whose `data.pkl` is a list of instructions to a small machine; among them are names
of functions to call. Reading the list is harmless, running it is not: a file can name any function of any module.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from sdpet.files.received import parsed

MOST_PICKLE = 256 << 20  # bytes of the instructions in an archive; those of Stable Diffusion XL have about 1 MB
MOST_HEADER = 100_000_000  # bytes of a header, as in the library safetensors
UNET, VAE = "model.diffusion_model.", "first_stage_model."
EMA = "model_ema."
# The text encoders of each family by part of the pipeline, with the prefix of their weights. Names of open_clip's model
# end in "model.", those of transformers' in "transformer.".
TEXTS = {
    "v1": {"text_encoder": "cond_stage_model.transformer."},
    "v21": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
NAMES = {"v1": "Stable Diffusion v1", "v21": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
# Prefixes of other models, and what they are.
_OTHERS = {
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL, which draws no image by itself",
    "control_model.": "a ControlNet, which has no place for adapters here",
    "lora_unet_": "a LoRA in kohya's format and no base model; sdpet adapters export writes such files",
    "down_blocks.": "a UNet in diffusers' format without the other parts; give the whole pipeline's folder",
    "decoder.": "a VAE without a UNet, which goes with a base model as unet.vae",
}  # fmt: skip
# Names that dictionaries of plain tensors refer to.
_TENSORS = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter", "torch.nn.parameter Parameter", "torch Size", "torch device", "_codecs encode",
    *(f"torch {name}" for name in "float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool".split()),
}  # fmt: skip
# Names that training tools store beside the weights: packages, and names of the standard library. None of them is ever
# imported; inert stand-ins replace them (see `load`).
_TOOLS = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "omegaconf", "numpy")
_PLAIN = {
    "collections defaultdict", "builtins dict", "builtins list", "builtins set", "builtins object", "builtins int",
    "builtins float", "builtins str", "builtins tuple", "argparse Namespace", "pathlib PosixPath",
    "pathlib WindowsPath", "copyreg _reconstructor",
}  # fmt: skip


@dataclass
class Contents:
    """Strings and imports of a checkpoint file.

    Parameters
    ----------
    names : set of str
        All strings, including the keys of the weights.
    objects : set of str
        What it would import, as "module name".
    input_channels : int, optional
        Channels that the UNet takes, where the file says so without being read whole.
    """

    names: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    input_channels: int | None = None

    def __contains__(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.names)


def check_checkpoint(file: Path, use_ema: bool, has_vae: bool = False) -> str:
    """Check that a file is a whole Stable Diffusion checkpoint that is safe to read.

    Parameters
    ----------
    file : Path
    use_ema : bool
        Whether its averaged weights are wanted.
    has_vae : bool
        Whether it is used with another VAE, so that it needs none.

    Returns
    -------
    str
        Its family: "v1", "v21" or "sdxl".

    Raises
    ------
    ValueError
        It is unsafe, no such checkpoint, or lacks a part.
    """
    found = contents(file)
    refuse_code(file, found)
    averaged = EMA + "diffusion_model"
    own = next((name for name, texts in TEXTS.items() if all(prefix in found for prefix in texts.values())), None)
    other = next((what for prefix, what in _OTHERS.items() if prefix in found), None)
    if own is None and other is not None:
        raise ValueError(f"{file} is no base model that sdpet reads: it is {other}.")
    if UNET not in found and averaged not in found:
        raise ValueError(f"{file} is no Stable Diffusion checkpoint: it holds no weights named {UNET}*.")
    if found.input_channels not in (None, 4):
        raise ValueError(input_channels_sentence(file, found.input_channels or 0))
    if own is None:
        raise ValueError(
            f"{file} has no text encoder of a known kind: it holds no weights named "
            f"{' or '.join(next(iter(texts.values())) + '*' for texts in TEXTS.values())}."
        )
    if VAE not in found and not has_vae:
        raise ValueError(f"{file} has no VAE: it holds no weights named {VAE}*; give one as unet.vae.")
    if use_ema and averaged not in found:
        raise ValueError(f"{file} holds no EMA weights ({EMA}*); set unet.use_ema=false.")
    if not use_ema and UNET not in found:
        raise ValueError(f"{file} holds EMA weights of the UNet only ({EMA}*); set unet.use_ema=true.")
    return own


def check_vae(file: Path) -> None:
    """Raise ValueError unless a file holds a VAE and is safe to read."""
    found = contents(file)
    refuse_code(file, found)
    if not any(prefix in found for prefix in ("decoder.", VAE + "decoder.")):
        raise ValueError(f"unet.vae {file} is no VAE: it holds no weights named decoder.* or {VAE}decoder.*.")


def input_channels_sentence(path: Path, channels: int) -> str:
    """The error for a UNet that takes more than noisy latents."""
    kind = {8: "is a model for editing images", 9: "is an inpainting model", 5: "is a model that takes a depth map"}
    what = kind.get(channels, "is no model of text to image alone")
    return (
        f"{path} {what}: its UNet takes {channels} channels, which are more than noisy latents; "
        "give the base model that it was made from."
    )


def refuse_code(file: Path, found: Contents) -> None:
    """Raise ValueError if unpickling the file would call functions that weights do not need."""
    if code := sorted(name for name in found.objects if not is_data(name)):
        raise ValueError(
            f"{file} was not read, as it could run code of its maker's choice on this machine: besides weights it "
            f"names {code[0].replace(' ', '.')}{f' and {len(code) - 1} more' if len(code) > 1 else ''}; give the "
            "model's .safetensors file or its folder in diffusers' format, or another copy from a source you trust."
        )


def is_data(name: str) -> bool:
    """Whether an import ("module name") belongs to a tensor or can be replaced by a stand-in."""
    module, _, attribute = name.partition(" ")
    storage = module in ("torch", "torch.storage") and attribute.endswith("Storage")
    return name in _TENSORS or storage or is_replaced(name)


def is_replaced(name: str) -> bool:
    """Whether an import is replaced by an inert stand-in: objects of training tools (callbacks, counters)."""
    return name in _PLAIN or name.split(" ")[0].split(".")[0] in _TOOLS


def contents(file: Path) -> Contents:
    """Scan a file. Raises ValueError if it is neither a checkpoint of torch.save nor of safetensors."""
    return _contents(file, file.stat().st_mtime_ns)


@cache
def _contents(file: Path, changed: int) -> Contents:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _refuse_packed(file, archive)
                name = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
                with archive.open(name) as stream:
                    return _scan([stream.read()])
        if (header := _safetensors_header(file)) is not None:
            shape = header.get(UNET + "input_blocks.0.0.weight", {}).get("shape")
            takes = shape[1] if isinstance(shape, list) and len(shape) == 4 else None
            return Contents(set(header), input_channels=takes)
        with file.open("rb") as stream:
            return _scan(_legacy(stream))
    except Packed:
        raise
    except Exception as error:  # whatever stands in the file: the readers of zip and pickle raise many kinds
        raise ValueError(
            f"{file} is neither a checkpoint written by torch.save nor a .safetensors file, or it is damaged "
            f"({type(error).__name__})."
        ) from error


class Packed(ValueError):
    """A file that is packed, and would need far more memory than it has bytes."""


def _refuse_packed(file: Path, archive: zipfile.ZipFile) -> None:
    """torch.save packs nothing. An archive that does could grow a thousandfold when it is read."""
    whole = sum(item.file_size for item in archive.infolist())
    pickles = sum(item.file_size for item in archive.infolist() if item.filename.endswith(".pkl"))
    if whole > max(2 * file.stat().st_size, 1 << 20) or pickles > MOST_PICKLE:
        raise Packed(
            f"{file} was not read: it has {file.stat().st_size:,} bytes and would unpack to {whole:,}, which "
            "torch.save does not do; give another copy of the model."
        )


def is_safetensors(file: Path) -> bool:
    """Whether a file is in the format of safetensors, whatever its name ends in."""
    try:
        return not zipfile.is_zipfile(file) and _safetensors_header(file) is not None
    except (OSError, ValueError):
        return False


def _safetensors_header(file: Path) -> dict[str, Any] | None:
    """What a safetensors file says of its tensors, by name; None for a file of another kind, ValueError if damaged."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        begin = stream.read(9)
        if len(begin) < 9 or begin[8:] != b"{":
            return None
        (length,) = struct.unpack("<Q", begin[:8])
        if length > min(size - 8, MOST_HEADER):
            raise ValueError(f"{file} is cut short, or no .safetensors file")
        header = parsed(file, (b"{" + stream.read(length - 1)).decode())
    tensors = {name: item for name, item in header.items() if name != "__metadata__"}
    ends = [_end(item) for item in tensors.values()]
    if None in ends or max((end or 0 for end in ends), default=0) > size - 8 - length:
        raise ValueError(f"{file} is cut short, or no .safetensors file")
    return tensors


def _end(item: object) -> int | None:
    """Where the bytes of a tensor end; None for what describes no tensor."""
    offsets = item.get("data_offsets") if isinstance(item, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(value) is int for value in offsets):
        return None
    return offsets[1] if 0 <= offsets[0] <= offsets[1] else None


def _legacy(stream: IO[bytes]) -> Iterable[IO[bytes]]:
    """Before torch 1.6 a file was four pickles, one after the other: number, version, machine, weights."""
    for _ in range(4):
        yield stream


def _scan(pickles: Iterable[bytes | IO[bytes]]) -> Contents:
    found = Contents()
    for pickle in pickles:
        recent: list[str] = []  # STACK_GLOBAL takes module and name from the stack
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in ("GLOBAL", "INST"):
                found.objects.add(_today(str(argument)))
            elif opcode.name == "STACK_GLOBAL":
                found.objects.add(_today(" ".join(recent[-2:])))
            elif isinstance(argument, str):
                found.names.add(argument)
                recent = [*recent[-1:], argument]
    return found


def _today(name: str) -> str:
    """Translate names of Python 2, which the older formats use, to Python 3."""
    module, _, attribute = name.partition(" ")
    module, attribute = NAME_MAPPING.get((module, attribute), (module, attribute))
    return f"{IMPORT_MAPPING.get(module, module)} {attribute}"
