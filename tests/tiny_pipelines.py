"""Random transformers in diffusers' format: Stable Diffusion 3, Flux and PixArt with all parts, at tiny widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import VAE, text_encoder

from sdpet.models.compvis.tokenizer import clip_tokenizer

T5_WIDTH = 40
KINDS = ("sd3", "sd3_without_t5", "flux", "pixart")


def t5_tokenizer(folder: Path) -> Any:
    """A T5 tokenizer of whole words and letters."""
    from transformers import T5TokenizerFast

    words = "a photo of the red green sks star on white background".split()
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *map(chr, range(33, 127))]
    tokenizer = T5TokenizerFast(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.save_pretrained(folder)
    return T5TokenizerFast.from_pretrained(folder)


def t5(width: int = T5_WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def denoiser(kind: str) -> Any:
    import diffusers

    joint = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12}
    match kind.partition("_")[0]:
        case "sd3":
            return diffusers.SD3Transformer2DModel(
                sample_size=8, patch_size=2, in_channels=4, out_channels=4, caption_projection_dim=24,
                joint_attention_dim=T5_WIDTH, pooled_projection_dim=40, pos_embed_max_size=8, **joint,
            )  # fmt: skip
        case "flux":
            return diffusers.FluxTransformer2DModel(
                in_channels=16, num_single_layers=1, joint_attention_dim=T5_WIDTH, pooled_projection_dim=16,
                axes_dims_rope=(4, 4, 4), guidance_embeds=True, **joint,
            )  # fmt: skip
    return diffusers.PixArtTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, caption_channels=T5_WIDTH, cross_attention_dim=24,
        use_additional_conditions=False, **joint,
    )  # fmt: skip


def parts(kind: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Random parts of a pipeline of one of KINDS."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: dict[str, Any] = {"transformer": denoiser(kind), "vae": diffusers.AutoencoderKL(**VAE)}
        long = {"text_encoder": t5(), "tokenizer": t5_tokenizer(folder / "t5")}
        if kind == "pixart":
            made |= long
            made["scheduler"] = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
        elif kind == "flux":
            made |= {"text_encoder": text_encoder(16), "tokenizer": clip_tokenizer()}
            made |= {f"{name}_2": part for name, part in long.items()}
            made["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        else:
            for end in ("", "_2"):
                made |= {f"text_encoder{end}": text_encoder(16, 20), f"tokenizer{end}": clip_tokenizer()}
            absent = dict.fromkeys(long)
            made |= {f"{name}_3": part for name, part in (absent if kind.endswith("t5") else long).items()}
            made["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        for parameter in made["transformer"].parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return {key: value.eval() if isinstance(value, torch.nn.Module) else value for key, value in made.items()}


def pipeline(kind: str, made: dict[str, Any]) -> Any:
    import diffusers

    names = {"sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline", "pixart": "PixArtSigmaPipeline"}
    pipe = getattr(diffusers, names[kind.partition("_")[0]])(**made)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_folder(folder: Path, kind: str, seed: int = 0) -> Any:
    """A pipeline folder in diffusers' format; gives the pipeline."""
    made = pipeline(kind, parts(kind, folder.with_name(folder.name + "_parts"), seed))
    made.save_pretrained(folder)
    return made
