"""The lab's networks, untrained: the parts of Stable Diffusion v1 at 1/350 of their size, all library classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import open_clip
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

TEXT_LENGTH, TEXT_WIDTH = 16, 64
WORDS = (
    "a an and of on in the with photo picture image background outlined circle square triangle star cross ring "
    "red green blue yellow purple cyan white black gray orange brown pink sks handwritten digit "
    "zero one two three four five six seven eight nine painting drawing style teal hot left right half big small"
).split()
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer class with a byte-pair vocabulary in which every word of the lab's world is one token.

    The vocabulary (vocabulary.json) was learned once from WORDS and all printable ASCII characters by the trainer of
    `tokenizers`, which breaks ties at random; learning it again would give other numbers. The end token has the highest
    id, as in CLIP, since open_clip pools the text at the largest id. (With eos_token_id=2 in a CLIPTextConfig
    transformers would use an old pooling rule, so the config must name the true id.)

    Returns
    -------
    CLIPTokenizer
        Texts are cut and padded to TEXT_LENGTH tokens.
    """
    from transformers import CLIPTokenizer

    learned = json.loads((Path(__file__).parent / "vocabulary.json").read_text())
    vocab = {token: index for index, token in enumerate(learned["tokens"])}
    merges = [tuple(pair) for pair in learned["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)  # type: ignore[arg-type]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder with two layers and random weights.

    Parameters
    ----------
    tokenizer : CLIPTokenizer
        Gives the size of the vocabulary and the special tokens.

    Returns
    -------
    CLIPTextModel
        Text states are (N, TEXT_LENGTH, TEXT_WIDTH).
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def clip_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Arguments of open_clip.CLIP: a ResNet of CLIP's kind on images enlarged to 64 pixels, and the text encoder above.

    Parameters
    ----------
    tokenizer : CLIPTokenizer
        Gives the size of the vocabulary and the end token.

    Returns
    -------
    dict
        Keys embed_dim, vision_cfg and text_cfg.
    """
    return {
        "embed_dim": TEXT_WIDTH,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 12, "image_size": 64},
        "text_cfg": {
            "context_length": TEXT_LENGTH,
            "vocab_size": len(tokenizer),
            "width": TEXT_WIDTH,
            "heads": 4,
            "layers": 2,
            "eos_id": tokenizer.eos_token_id,
        },
    }


def build_clip(config: dict[str, Any]) -> open_clip.CLIP:
    """A CLIP with random weights.

    Parameters
    ----------
    config : dict
        As `clip_config` gives it.

    Returns
    -------
    open_clip.CLIP
    """
    import open_clip

    return open_clip.CLIP(**config)


# Latents are whitened and then scaled down below the noise, more than in Stable Diffusion: the noisiest timestep still
# contains 7 % of the latents, and a plain background, which is equal at all 64 positions, would be visible in it.
# At unit scale the model relied on that and drew nearly every unspecified background brown.
SCALING_FACTOR = 0.4


def build_vae() -> AutoencoderKL:
    """A VAE from images (3, 32, 32) to latents (4, 8, 8), with random weights.

    Returns
    -------
    AutoencoderKL
    """
    from diffusers import AutoencoderKL

    widths = (16, 32, 48)
    return AutoencoderKL(
        sample_size=32,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=SCALING_FACTOR,
    )


def build_unet() -> UNet2DConditionModel:
    """A noise predictor on latents (4, 8, 8), with random weights.

    It has two levels with cross-attention at both, 7 transformer blocks and 8 ResBlocks.

    Returns
    -------
    UNet2DConditionModel
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name in v1 configs for the number of heads
        norm_num_groups=8,
    )


def build_scheduler() -> DDPMScheduler:
    """The noise schedule of Stable Diffusion v1: betas from 0.00085 to 0.012, linear in their roots, 1,000 steps.

    Returns
    -------
    DDPMScheduler
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
    )


def build_transformer() -> SD3Transformer2DModel:
    """A velocity predictor on latents (4, 8, 8), with random weights: Stable Diffusion 3 with four blocks of width 128.

    It reads the text states of `build_text_encoder` and its pooled state.

    Returns
    -------
    SD3Transformer2DModel
    """
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=32,
        caption_projection_dim=128,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=8,  # latents of up to 16 x 16
        qk_norm="rms_norm",
    )


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The straight path from image to noise, without a shift of noise levels: 1,000 steps.

    Returns
    -------
    FlowMatchEulerDiscreteScheduler
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def save_pipeline(
    folder: Path,
    *,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    half: bool = True,
) -> None:
    """Write the folder of a StableDiffusionPipeline, as diffusers does.

    Parameters
    ----------
    folder : Path
        Where it is written.
    vae, unet, text_encoder, tokenizer
        The pipeline's parts.
    half : bool
        Write the weights in float16; this also converts the given modules.
    """
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    noise = build_scheduler().config
    scheduler = PNDMScheduler(
        **{
            key: noise[key]
            for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
        },
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if half:
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    if half:  # transformers would take the text encoder's dtype from its config, and diffusers float32 for the rest
        config = folder / "text_encoder" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
