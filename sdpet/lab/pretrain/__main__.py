"""Example: python -m sdpet.lab.pretrain --work build/lab

Trains every part of the lab and writes
sdpet/lab/{pipeline,scorer,judge,data,digit_judge,shape_judge,transformer,transformer_without_pooled}.
Stages, in order: vae, clip, judge, unet, assets, digits, shapes, dit. Each stores checkpoints in the work folder, so an
interrupted run resumes where it stopped. Figures are written to WORK/figures.jsonl.

python -m sdpet.lab.pretrain digits trains the judge of digits only, shapes that of new shapes, and dit the two
transformers, on the parts that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

READING = {"digits": "digit_judge", "shapes": "shape_judge"}  # sets of images, and the folder of the judge of each


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        "python -m sdpet.lab.pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stage",
        nargs="?",
        choices=("all", *READING, "dit"),
        default="all",
        help="all stages, or only the judge of digits or of new shapes, or only the transformers",
    )
    parser.add_argument("--work", type=Path, default=Path("build/lab"), help="folder of checkpoints and figures")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1], help="where the lab is written (default: the package)"
    )
    parser.add_argument(
        "--quick", type=float, default=1.0, help="scale of all step counts, e.g. 0.01 to try the script"
    )
    arguments = parser.parse_args()
    if arguments.quick <= 0:
        parser.error("--quick must be above 0")
    if arguments.stage == "all":
        run(arguments.work, arguments.out, arguments.quick)
    for name in READING:
        if arguments.stage in ("all", name):
            reading(name, arguments.work, arguments.out, arguments.quick)
    if arguments.stage in ("all", "dit"):
        transformers(arguments.work, arguments.out, arguments.quick)


def run(work: Path, out: Path, quick: float = 1.0) -> None:
    """Train the stages that are not finished and write the lab's folders.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    out : Path
        Folder that gets pipeline, scorer, judge and data.
    quick : float
        Factor on all numbers of steps.
    """
    import torch

    from sdpet.lab.architecture import build_text_encoder, build_tokenizer, build_unet, clip_config, save_pipeline
    from sdpet.lab.convert import text_tower
    from sdpet.lab.pretrain import assets, clip, judge, unet, vae

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    autoencoder = vae.train(work, quick)
    scorer = clip.train(work, quick, autoencoder)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer)
    text_encoder.load_state_dict(text_tower(scorer))
    text_encoder.eval().requires_grad_(False)
    judged = judge.train(work, quick, autoencoder)
    denoiser = build_unet()
    denoiser.load_state_dict(unet.train(work, quick, autoencoder, text_encoder))

    save_pipeline(out / "pipeline", vae=autoencoder, unet=denoiser, text_encoder=text_encoder, tokenizer=tokenizer)
    assets.write_weights(out / "scorer", scorer)
    (out / "scorer" / "config.json").write_text(json.dumps(clip_config(tokenizer), indent=1) + "\n")
    assets.write_weights(out / "judge", judged)
    assets.write_data(out)
    shutil.copy(work / "figures.jsonl", out / "pretrain_figures.jsonl")


def reading(name: str, work: Path, out: Path, quick: float = 1.0) -> None:
    """Train a judge that reads words in images, unless it is trained, and write its folder.

    Parameters
    ----------
    name : {"digits", "shapes"}
        What it reads.
    work : Path
        Folder of checkpoints and figures.
    out : Path
        Folder that has the lab's pipeline.
    quick : float
        Factor on all numbers of steps.
    """
    import torch

    from sdpet.lab.pretrain import assets, reading_judge
    from sdpet.models.load import load_base

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    vae = load_base("lab", out / "pipeline").vae
    train = {"digits": reading_judge.digits, "shapes": reading_judge.shapes}[name]
    assets.write_weights(out / READING[name], train(work, quick, vae))


def transformers(work: Path, out: Path, quick: float = 1.0) -> None:
    """Train the transformers with and without pooled text, unless they are trained, and write their folders.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    out : Path
        Folder that has the lab's pipeline.
    quick : float
        Factor on all numbers of steps.
    """
    import dataclasses

    import torch

    from sdpet.lab.architecture import build_flow_scheduler, build_transformer
    from sdpet.lab.pretrain import assets, dit
    from sdpet.models.load import load_base

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    for pooled, end in ((True, ""), (False, "_without_pooled")):
        base = load_base("lab", out / "pipeline")
        transformer, scheduler = build_transformer(), build_flow_scheduler()
        transformer.load_state_dict(dit.train(work, quick, base.vae, base.text_encoder, pooled))
        transformer.half().save_pretrained(out / f"transformer{end}" / "transformer")
        scheduler.save_pretrained(out / f"transformer{end}" / "scheduler")
        base = dataclasses.replace(base, unet=transformer.float().eval(), scheduler=scheduler, pooled=pooled)
        assets.write_class_images(out / "data" / f"class_transformer{end}", base, guidance=1.5)


if __name__ == "__main__":
    main()
