"""Random models in the public formats: folders in diffusers' format of v1, v2.1 and XL, and original checkpoints.

Their architectures are the true ones at tiny widths: as many blocks, of the same kinds. The names in an original
checkpoint are written down here from the structure of CompVis' modules, independently of any converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdpet.models.compvis.tokenizer import clip_tokenizer

WIDTHS = (8, 8, 16, 16)
COMMON = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 4, "sample_size": 8}
UNETS: dict[str, dict[str, Any]] = {
    "v1": COMMON | {
        "block_out_channels": WIDTHS, "cross_attention_dim": 16, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "v21": COMMON | {
        "block_out_channels": WIDTHS, "cross_attention_dim": 16, "attention_head_dim": (1, 1, 2, 2),
        "use_linear_projection": True, "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "sdxl": COMMON | {
        "block_out_channels": WIDTHS[1:], "cross_attention_dim": 40, "attention_head_dim": (1, 2, 2),
        "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 3),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    },
}  # fmt: skip
VAE = {
    "block_out_channels": (8, 8, 8, 8), "down_block_types": ("DownEncoderBlock2D",) * 4, "norm_num_groups": 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 64,
    "scaling_factor": 0.18215,
}  # fmt: skip


def text_encoder(width: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        projection_dim=projection or width, hidden_act="quick_gelu",
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def parts(kind: str, seed: int = 0) -> dict[str, Any]:
    """Random parts of a pipeline of the kind v1, v21 or sdxl."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {
            "unet": UNet2DConditionModel(**UNETS[kind]),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": text_encoder(16),
            "tokenizer": clip_tokenizer(),
        }
        if kind == "sdxl":
            made |= {"text_encoder_2": text_encoder(24, 24), "tokenizer_2": clip_tokenizer()}
        for name in ("unet", "vae"):  # norms and biases start at 1 and 0, where a swapped pair would not be seen
            for parameter in made[name].parameters():
                if parameter.dim() == 1:
                    parameter.data += 0.1 * torch.randn_like(parameter)
    made["scheduler"] = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False, prediction_type="v_prediction" if kind == "v21" else "epsilon",
    )  # fmt: skip
    return {key: value.eval() if isinstance(value, torch.nn.Module) else value for key, value in made.items()}


def pipeline(kind: str, made: dict[str, Any], **more: Any) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if kind == "sdxl":
        return StableDiffusionXLPipeline(**made, add_watermarker=False, **more)
    unsafe = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**made, **unsafe, **more)


def write_folder(folder: Path, kind: str = "v1", seed: int = 0) -> dict[str, Any]:
    """A pipeline folder in diffusers' format; gives the parts it was written from."""
    made = parts(kind, seed)
    pipeline(kind, made).save_pretrained(folder)
    return made


def write_configs(folder: Path, made: dict[str, Any]) -> Path:
    """What `unet.config` names for a checkpoint that is not of v1's sizes."""
    for part in ("unet", "vae"):
        made[part].save_config(folder / part)
    for part in [part for part in made if part.startswith("text_encoder")]:
        made[part].config.save_pretrained(folder / part)
    made["scheduler"].save_pretrained(folder / "scheduler")
    return folder


def original_weights(made: dict[str, Any], ema: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """`state_dict` of an original checkpoint; ema: state dict of the UNet whose weights are the averaged ones."""
    kind = kind_of(made)
    state: dict[str, torch.Tensor] = {"betas": torch.zeros(3), "logvar": torch.zeros(3)}
    for key, value in made["unet"].state_dict().items():
        name = "diffusion_model." + unet_name(key, kind)
        state["model." + name] = value
        if ema is not None:
            state["model_ema." + name.replace(".", "")] = ema[key]
    if ema is not None:
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    for key, value in made["vae"].state_dict().items():
        name = vae_name(key)
        is_projection = ".attn_1." in name and name.endswith("weight") and value.dim() == 2
        state["first_stage_model." + name] = value[:, :, None, None] if is_projection else value
    clip = {"v1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}.get(kind)
    if clip is not None:
        for key, value in made["text_encoder"].state_dict().items():
            state[f"{clip}text_model." + key.removeprefix("text_model.")] = value
        state[f"{clip}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if kind == "v21":
        state |= openclip_weights(made["text_encoder"], "cond_stage_model.model.", more_layers=1)
    if kind == "sdxl":
        state |= openclip_weights(made["text_encoder_2"], "conditioner.embedders.1.model.")
    return {key: value.contiguous().clone() for key, value in state.items()}


def kind_of(made: dict[str, Any]) -> str:
    """v1, v21 or sdxl, by the parts."""
    if "text_encoder_2" in made:
        return "sdxl"
    return "v21" if made["unet"].config.use_linear_projection else "v1"


def openclip_weights(encoder: Any, prefix: str, more_layers: int = 0) -> dict[str, torch.Tensor]:
    """A text encoder's weights by open_clip's names; more_layers: layers behind the last one that is used."""
    own = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    top = {
        "embeddings.token_embedding.weight": "token_embedding.weight", "final_layer_norm.weight": "ln_final.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    state = {prefix + name: own[key] for key, name in top.items()}
    layers = encoder.config.num_hidden_layers
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for i in range(layers + more_layers):
        layer = f"encoder.layers.{min(i, layers - 1)}."
        block = f"{prefix}transformer.resblocks.{i}."
        for leaf in ("weight", "bias"):
            parts = [own[f"{layer}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            state[f"{block}attn.in_proj_{leaf}"] = torch.cat(parts)
            state[f"{block}attn.out_proj.{leaf}"] = own[f"{layer}self_attn.out_proj.{leaf}"]
            state |= {f"{block}{name}.{leaf}": own[f"{layer}{key}.{leaf}"] for key, name in inner.items()}
    projection = own.get("text_projection.weight")
    width = encoder.config.hidden_size
    state[prefix + "text_projection"] = torch.eye(width) if projection is None else projection.T
    return state | {prefix + "logit_scale": torch.tensor(4.6)}


def write_checkpoint(file: Path, made: dict[str, Any], ema: Any = None, half: bool = False, **extras: Any) -> Path:
    """An original checkpoint, `.ckpt` or `.safetensors`; extras: what lies beside the weights in a `.ckpt`."""
    state = original_weights(made, ema)
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, file)
    else:
        torch.save({"epoch": 3, "global_step": 470000, "state_dict": state, **extras}, file)
    return file


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_HEAD = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def unet_name(key: str, kind: str = "v1") -> str:
    """The original name of a weight of a UNet: 2 layers a level down, 3 up; in XL the coarsest level has attention."""
    owner, _, leaf = key.rpartition(".")
    if owner in _HEAD:
        return f"{_HEAD[owner]}.{leaf}"
    words = key.split(".")
    if words[0] == "mid_block":
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(words[1:3])]
        return f"middle_block.{place}." + _inner(words[1], words[3:])
    level, inner, layer = int(words[1]), words[2], int(words[3])
    if words[0] == "down_blocks":
        if inner == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{leaf}"
        return f"input_blocks.{3 * level + 1 + layer}.{int(inner == 'attentions')}." + _inner(inner, words[4:])
    if inner == "upsamplers":  # behind the third layer and its attention, which the coarsest level has not
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 and kind != 'sdxl' else 2}.conv.{leaf}"
    return f"output_blocks.{3 * level + layer}.{int(inner == 'attentions')}." + _inner(inner, words[4:])


def _inner(kind: str, words: list[str]) -> str:
    return ".".join([_RESNET[words[0]], *words[1:]] if kind == "resnets" else words)


def vae_name(key: str) -> str:
    """CompVis' name of a weight of the autoencoder; its decoder counts levels from the finest."""
    words = key.split(".")
    if words[0] in ("quant_conv", "post_quant_conv"):
        return key
    side, rest = words[0], words[1:]
    if rest[0] == "mid_block":
        if rest[1] == "resnets":
            return ".".join([side, "mid", f"block_{int(rest[2]) + 1}", *_short(rest[3:])])
        name = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[rest[3]]
        return f"{side}.mid.attn_1.{name}.{rest[-1]}"
    if rest[0] in ("down_blocks", "up_blocks"):
        level = int(rest[1]) if rest[0] == "down_blocks" else 3 - int(rest[1])
        way = rest[0].split("_")[0]
        if rest[2] == "resnets":
            return ".".join([side, way, str(level), "block", rest[3], *_short(rest[4:])])
        return f"{side}.{way}.{level}.{way}sample.conv.{rest[-1]}"
    return ".".join([side, {"conv_norm_out": "norm_out"}.get(rest[0], rest[0]), *rest[1:]])


def _short(words: list[str]) -> list[str]:
    return ["nin_shortcut" if word == "conv_shortcut" else word for word in words]
