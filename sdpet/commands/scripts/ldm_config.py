"""Convert configs of CompVis' checkpoints (configs/stable-diffusion/v1-inference.yaml) to diffusers' configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAMILIES = {"FrozenCLIPEmbedder": "v1", "FrozenOpenCLIPEmbedder": "v21"}  # by the text encoder's class
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}  # by `parameterization`


def write_configs(file: Path, folder: Path) -> Path:
    """Write the configs unet/, vae/, text_encoder/ and scheduler/ for a YAML config of CompVis or Stability AI.

    Values that the YAML file lacks are those of Stable Diffusion v1 or 2.1, whichever has this text encoder.

    Parameters
    ----------
    file : Path
        The YAML file.
    folder : Path
        Where to write.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        The file does not exist, is no such config, or names another text encoder or parameterization.
    """
    import yaml

    from sdpet.models.source import ARCHITECTURES

    def own(part: str, name: str = "config.json") -> dict[str, Any]:
        return json.loads((ARCHITECTURES / family / part / name).read_text(encoding="utf-8"))

    try:
        params = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"]
        text = params["cond_stage_config"]["target"]
        family = FAMILIES.get(text.rpartition(".")[2], "v1")
        unet, vae = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
        written = {
            "unet/config.json": own("unet") | _unet(unet),
            "vae/config.json": own("vae") | _vae(vae) | {"scaling_factor": float(params.get("scale_factor", 1.0))},
            "text_encoder/config.json": own("text_encoder"),
            "scheduler/scheduler_config.json": own("scheduler", "scheduler_config.json") | _scheduler(params),
        }
    except FileNotFoundError:
        raise ValueError(f"--config {file} does not exist; leave it out for Stable Diffusion v1's.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise ValueError(f"--config {file} is no config of a Stable Diffusion model ({reason}).") from error
    if text.rpartition(".")[2] not in FAMILIES:
        known = " or ".join(FAMILIES)
        raise ValueError(f"--config {file} names the text encoder {text}; sdpet reads checkpoints with {known}.")
    if (predicted := params.get("parameterization", "eps")) not in PREDICTIONS:
        raise ValueError(f"--config {file} has parameterization {predicted!r}; sdpet knows {', '.join(PREDICTIONS)}.")
    for name, config in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
    return folder


def _unet(given: dict[str, Any]) -> dict[str, Any]:
    """The UNet's config; `attention_resolutions` of CompVis are the downsampling factors at which attention is used."""
    levels = len(given["channel_mult"])
    widths = [given["model_channels"] * factor for factor in given["channel_mult"]]
    each = given.get("num_head_channels", -1)  # channels of a head; -1: their number is given
    heads = given["num_heads"] if each == -1 else [width // each for width in widths]
    attended = [2**level in given["attention_resolutions"] for level in range(levels)]
    return {
        "sample_size": 64,  # no code reads image_size (32) of CompVis' config
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": given["num_res_blocks"],
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "cross_attention_dim": given["context_dim"],
        "transformer_layers_per_block": given.get("transformer_depth", 1),
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
    } | ({"use_linear_projection": True} if given.get("use_linear_in_transformer") else {})


def _vae(given: dict[str, Any]) -> dict[str, Any]:
    levels = len(given["ch_mult"])
    return {
        "in_channels": given["in_channels"],
        "out_channels": given["out_ch"],
        "latent_channels": given["z_channels"],
        "layers_per_block": given["num_res_blocks"],
        "block_out_channels": [given["ch"] * factor for factor in given["ch_mult"]],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _scheduler(params: dict[str, Any]) -> dict[str, Any]:
    """The scheduler's config; CompVis' `linear` schedule is linear in the square root: diffusers' `scaled_linear`."""
    return {
        "num_train_timesteps": int(params.get("timesteps", 1000)),
        "beta_start": float(params["linear_start"]),
        "beta_end": float(params["linear_end"]),
        "prediction_type": PREDICTIONS.get(params.get("parameterization", "eps"), "epsilon"),
    }
