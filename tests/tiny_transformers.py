"""Small random transformers of diffusers, one of each family, and inputs for them."""

import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
)

_SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 20, "caption_projection_dim": 16, "pooled_projection_dim": 12,
    "pos_embed_max_size": 8,
}  # fmt: skip
_CONFIGS = {
    "sd3": (SD3Transformer2DModel, {**_SD3, "num_layers": 3}),
    "sd35": (SD3Transformer2DModel, {**_SD3, "num_layers": 3, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}),
    "flux": (FluxTransformer2DModel, {
        "patch_size": 1, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 20, "pooled_projection_dim": 12, "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    }),
    "pixart": (PixArtTransformer2DModel, {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "attention_head_dim": 8,
        "num_attention_heads": 2, "num_layers": 2, "cross_attention_dim": 16, "caption_channels": 20,
        "use_additional_conditions": False, "interpolation_scale": 1,
    }),
    "sana": (SanaTransformer2DModel, {
        "sample_size": 4, "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 20,
    }),
    "wan": (WanTransformer3DModel, {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
        "out_channels": 4, "text_dim": 20, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "rope_max_seq_len": 32,
    }),
    "qwen": (QwenImageTransformer2DModel, {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 20, "axes_dims_rope": (8, 4, 4),
    }),
}  # fmt: skip
FAMILIES = tuple(_CONFIGS)


def tiny_transformer(family, **config):
    """A model in float64 whose every weight is random, also those that begin at zero."""
    kind, own = _CONFIGS[family]
    torch.manual_seed(0)
    model = kind(**{**own, **config}).double().requires_grad_(False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(family, model, copies=1, dtype=torch.float64):
    """The model's output for two inputs that are always the same, repeated for the members of a fleet."""
    generator, rows = torch.Generator().manual_seed(3), 2 * copies

    def normal(*shape):
        one = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        return torch.cat([one] * copies).to(dtype)

    time, text, pooled = torch.tensor([10.0, 500.0] * copies).to(dtype), normal(5, 20), normal(12)
    if family.startswith("sd3"):
        return model(normal(4, 8, 8), text, pooled, time).sample
    if family == "flux":
        ids, text_ids = torch.zeros(16, 3, dtype=dtype), torch.zeros(5, 3, dtype=dtype)
        ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
        guidance = torch.ones(rows, dtype=dtype)
        return model(normal(16, 4), text, pooled, time / 1000, ids, text_ids, guidance).sample
    if family == "pixart":
        return model(normal(4, 8, 8), text, time, {"resolution": None, "aspect_ratio": None}).sample
    if family == "sana":
        return model(normal(4, 4, 4), text, time).sample
    if family == "wan":
        return model(normal(4, 2, 4, 4), time, text).sample
    mask = torch.ones(rows, 5, dtype=torch.bool)
    return model(normal(16, 16), text, mask, time / 1000, [[(1, 4, 4)]] * rows).sample
