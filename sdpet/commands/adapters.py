"""`sdpet adapters`: show, convert and share saved adapters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpet.choices import LORA_FILE_DESIGN, WHERE_WORDS
from sdpet.files.command_parser import CommandParser

LIKELY = ("sd14", "sd21", "sdxl", "lab")  # models of different shapes, which a folder without a model is tried with
EXAMPLE = "example: sdpet adapters {}\n\n"
HELP = """example: sdpet adapters show outputs/single/24f3670b880c

  sdpet adapters count MODEL                      placements of a model, and their parameters
  sdpet adapters show FOLDER                      design, blocks, parameters, scores
  sdpet adapters export-reference FOLDER OUT      write the reference code's `<step>-adapters/`
  sdpet adapters import-reference FOLDER OUT --placement attn2o-ffni [--activation relu] [--scale 1]
  sdpet adapters export FOLDER FILE --format kohya     a run's LoRA for other tools: diffusers, kohya or comfy
  sdpet adapters import-lora FILE FOLDER          LoRA, LoCon, DoRA, LoHa or LoKr of other tools, to compare with
  sdpet adapters push FOLDER USER/NAME            upload to the hub, with a model card made from the record
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; raises ValueError with one sentence for an error the user can correct."""
    parser = CommandParser(
        "sdpet adapters",
        description=HELP,
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog="sdpet adapters")
    count = commands.add_parser(
        "count",
        example=EXAMPLE.format("count sd15 --params 24000"),
        help="placements of a model, and the parameters of their adapters",
    )
    count.add_argument("model", help="sd15, sdxl, sd3_medium, sd35_large, flux_dev, ..., or a folder of diffusers'")
    size = count.add_mutually_exclusive_group()
    size.add_argument("--mid-dim", type=int, default=60, help="width (default 60)")
    size.add_argument("--params", type=int, help="number of parameters instead: the nearest width is taken")
    count.add_argument(
        "--projections", action="store_true", help="also the linear layers, with the form lowrank (LoRA)"
    )
    show = commands.add_parser(
        "show", example=EXAMPLE.format("show outputs/single/24f3670b880c"), help="design, blocks, parameters, scores"
    )
    export = commands.add_parser(
        "export-reference",
        example=EXAMPLE.format("export-reference outputs/single/24f3670b880c 2500-adapters"),
        help="convert to the reference code's format",
    )
    read = commands.add_parser(
        "import-reference",
        example=EXAMPLE.format("import-reference 2500-adapters mine --placement attn2o-ffni"),
        help="convert from the reference code's format, which has no design",
    )
    other = commands.add_parser(
        "export",
        example=EXAMPLE.format("export outputs/single/24f3670b880c lora.safetensors --format kohya"),
        help="write a run's LoRA, or an imported file, for other tools",
    )
    other.add_argument("folder", type=Path, help="a finished run with adapter=lora, or what import-lora wrote")
    other.add_argument("out", type=Path, metavar="FILE", help="the .safetensors file to write")
    other.add_argument("--format", choices=("diffusers", "kohya", "comfy"), default="kohya", help="default kohya")
    theirs = commands.add_parser(
        "import-lora",
        example=EXAMPLE.format("import-lora lora.safetensors mine"),
        help="read a LoRA, LoCon, DoRA, LoHa or LoKr file of kohya's scripts, LyCORIS, diffusers or peft as a design",
    )
    theirs.add_argument("file", type=Path, help="the .safetensors file")
    theirs.add_argument("out", type=Path, help="the folder to write")
    push = commands.add_parser(
        "push",
        example=EXAMPLE.format("push outputs/single/24f3670b880c me/star --dry-run card"),
        help="upload to the hub",
    )
    for command in (show, export, read, push):
        command.add_argument("folder", type=Path, help="a folder of adapters, such as that of a finished run")
    for command in (export, read):
        command.add_argument("out", type=Path, help="the folder to write")
        command.add_argument(
            "--model",
            help="sd14, sd15, sd21, sdxl, lab, or a model's path; default: the run's own model, else the "
            "first of sd14, sd21, sdxl and lab that fits (export: sd14)",
        )
    read.add_argument("--placement", required=True, help="din-dout, such as attn2o-ffni")
    read.add_argument("--activation", default="relu", help="relu, sig, silu or ident (default relu)")
    read.add_argument("--scale", type=float, default=1.0, help="default 1")
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true")
    push.add_argument("--license", help="licence of the weights, such as openrail")
    push.add_argument("--samples", type=int, default=4, help="number of the run's samples to upload (default 4)")
    push.add_argument("--dry-run", type=Path, metavar="OUT", help="write the files into OUT instead of uploading them")
    given = parser.parse_args(list(arguments))
    run = {"count": _count, "show": _show, "export-reference": _export, "import-reference": _import,
           "export": _export_format, "import-lora": _import_lora,
           "push": _push}  # fmt: skip
    return run[given.command](given)


def _count(given: argparse.Namespace) -> int:
    from sdpet.commands.adapter_counts import counts
    from sdpet.models import empty_denoiser

    model = empty_denoiser(given.model)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{type(model).__name__}, {total:,} parameters")
    print(f"{'placement':<34} {'adapters':>8} {'mid_dim':>8} {'parameters':>12} {'share':>9}")
    for row in counts(model, given.mid_dim, given.params, given.projections):
        share = f"{row.parameters / total:9.3%}"
        print(f"{row.placement:<34} {row.adapters:>8} {row.mid_dim:>8} {row.parameters:>12,} {share}")
    return 0


def _show(given: argparse.Namespace) -> int:
    from sdpet.runs.model_card import record_of

    if (given.folder / "peft.json").is_file():
        described, blocks, what = _peft_layers(given.folder)
    elif (given.folder / LORA_FILE_DESIGN).is_file():
        described, blocks, what = _file_layers(given.folder)
    else:
        described, blocks, what = _adapters(given.folder)
    print(described)
    print(f"{len(blocks)} {what}, {sum(blocks.values()):,} parameters")
    for block, count in blocks.items():
        print(f"  {block:<60} {count:>10,}")
    record = record_of(given.folder)
    for metric, score in (record.metrics if record else {}).items():
        print(f"{metric} {score:.4g}")
    return 0


def _adapters(folder: Path) -> tuple[str, dict[str, int], str]:
    """The design of saved adapters in words, and the number of parameters of each block."""
    from sdpet.adapters.format import read_saved
    from sdpet.adapters.parts import where_of

    spec, tensors = read_saved(folder)
    blocks: dict[str, int] = {}
    for key, value in tensors.items():
        block = key.rsplit(".", 2)[0]
        blocks[block] = blocks.get(block, 0) + value.numel()
    words = f"{spec.placement}, {spec.words}, scale {spec.scale:g}, init {spec.init}"
    where = where_of(tensors)
    words += f", in the {WHERE_WORDS[where]}" if where in WHERE_WORDS else ""
    return words, blocks, "adapters"


def _peft_layers(folder: Path) -> tuple[str, dict[str, int], str]:
    """The same of a saved method of peft, with its layers."""
    from sdpet.methods import layer_sizes, read_peft

    spec, tensors = read_peft(folder)
    return spec.words(), layer_sizes(tensors), "layers"


def _file_layers(folder: Path) -> tuple[str, dict[str, int], str]:
    """The same of an imported LoRA file, with its layers."""
    from sdpet.methods import file_sizes, file_words, read_file

    _, layers = read_file(folder)
    return file_words(layers), file_sizes(layers), "layers"


def _export(given: argparse.Namespace) -> int:
    from sdpet.adapters.format import read_saved
    from sdpet.adapters.load import unattached_weights
    from sdpet.adapters.paper_format import export_reference
    from sdpet.adapters.parts import UNET, where_of

    spec, tensors = read_saved(given.folder)
    if where_of(tensors) != UNET:
        raise ValueError(f"{given.folder} has adapters in the text encoder, for which that format has no place.")
    unet = shape_of_unet(given.model, given.folder)
    export_reference(unet, unattached_weights(unet, spec, tensors, given.folder), given.out)
    print(f"{given.out}: {spec.placement}, mid_dim {spec.mid_dim}; note scale {spec.scale:g} and {spec.activation}, "
          "which that format does not store")  # fmt: skip
    return 0


def _import(given: argparse.Namespace) -> int:
    from sdpet.adapters.load import unattached_weights
    from sdpet.adapters.paper_format import read_reference, reference_mid_dim
    from sdpet.adapters.positions import position, split_placement
    from sdpet.adapters.spec import AdapterSpec

    if not given.folder.is_dir():
        raise ValueError(f"there is no folder {given.folder}.")
    din, _ = split_placement(given.placement)
    form = {"activation": given.activation, "scale": given.scale, "init": "default"}
    AdapterSpec.parse(given.placement, **form)  # check the choices before reading files
    spec = AdapterSpec.parse(given.placement, **form, mid_dim=reference_mid_dim(given.folder, position(din).block))
    known = given.model is not None or (given.folder / "config.yaml").is_file()
    wrong: dict[str, ValueError] = {}
    for model in [given.model] if known else LIKELY:  # the folder does not say for which model it was made
        unet = shape_of_unet(model, given.folder)
        try:
            adapters = unattached_weights(unet, spec, read_reference(unet, given.folder, spec), given.folder)
        except ValueError as error:
            wrong[str(model)] = error
            continue
        adapters.save(given.out)
        like = "" if known else f", taken for a model like {model}"
        size = f"{len(adapters)} adapters, {adapters.num_parameters():,} parameters, mid_dim {spec.mid_dim}"
        print(f"{given.out}: {size}{like}")
        return 0
    if known:
        raise next(iter(wrong.values()))
    raise ValueError(f"{given.folder} fits none of {', '.join(wrong)}; name its model with --model PATH.")


def _export_format(given: argparse.Namespace) -> int:
    from sdpet.methods import export_format

    count = export_format(given.folder, given.out, given.format)
    print(f"{given.out}: updates of {count} layers for {given.format}")
    return 0


def _import_lora(given: argparse.Namespace) -> int:
    from sdpet.methods import file_words, import_lora, read_file

    import_lora(given.file, given.out)
    print(f"{given.out}: {file_words(read_file(given.out)[1])}; sdpet txt2img --adapters {given.out} draws with it")
    return 0


def _push(given: argparse.Namespace) -> int:
    from sdpet.runs.model_card import push_to_hub, write_upload

    if given.dry_run is not None:
        write_upload(given.folder, given.repo_id, given.dry_run, given.license, given.samples)
        print(f"{given.dry_run} has the files for {given.repo_id}; nothing was uploaded")
        return 0
    print(push_to_hub(given.folder, given.repo_id, given.private, given.license, given.samples))
    return 0


def shape_of_unet(model: str | None, folder: Path) -> Any:
    """A UNet without weights (on the device "meta").

    Parameters
    ----------
    model : str or None
        Name or path of the model. None takes the model of the run in `folder`, or Stable Diffusion v1 if there is no
        run.
    folder : Path
        A folder of saved adapters.
    """
    from dataclasses import asdict

    from sdpet.models.estimate import part_on_meta
    from sdpet.models.source import ARCHITECTURE_OF, Source, architecture_of, find_source, source_of
    from sdpet.runs.stored import untrusted_config

    source: Source | None

    if model is None and (folder / "config.yaml").is_file():
        unet = asdict(untrusted_config(folder).unet)
        try:
            source = source_of(unet, fetch=False)
        except ValueError:  # the weights are not available; the architecture is enough
            source = architecture_of(unet)
    elif model is None or model in ARCHITECTURE_OF:
        source = architecture_of({"name": model or "sd14"})
    else:
        source = find_source(None if model == "lab" else model, fetch=False)
    if source is None:
        raise ValueError(f"the base model of {folder} is not on this machine; name it, or one like it, with --model.")
    return part_on_meta(source, source.denoiser)
