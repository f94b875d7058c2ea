"""Transformers' weights by the names of their makers' code, written down from its structure and not by a converter."""

from __future__ import annotations

from typing import Any

import torch

_HEADS = {
    "sd3": {
        "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder", "proj_out": "final_layer.linear",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    },
    "flux": {
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        **{
            f"time_text_embed.{name}_embedder.linear_{i}": f"{own}_in.{side}_layer"
            for name, own in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance"))
            for i, side in ((1, "in"), (2, "out"))
        },
    },
}  # fmt: skip
_INNER = {
    "sd3": {
        "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
        "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
        "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
        "attn2.to_out.0": "x_block.attn2.proj", "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k", "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
    },
    "flux": {
        "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
        "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
    "single": {"norm.linear": "modulation.lin", "proj_out": "linear2", "attn.norm_q": "norm.query_norm",
               "attn.norm_k": "norm.key_norm"},
}  # fmt: skip
_JOINED = {
    "sd3": {
        "x_block.attn.qkv": [f"attn.to_{c}" for c in "qkv"], "x_block.attn2.qkv": [f"attn2.to_{c}" for c in "qkv"],
        "context_block.attn.qkv": [f"attn.add_{c}_proj" for c in "qkv"],
    },
    "flux": {"img_attn.qkv": [f"attn.to_{c}" for c in "qkv"], "txt_attn.qkv": [f"attn.add_{c}_proj" for c in "qkv"]},
    "single": {"linear1": [*(f"attn.to_{c}" for c in "qkv"), "proj_mlp"]},
}  # fmt: skip


def _halves_swapped(value: torch.Tensor) -> torch.Tensor:
    """Shift and scale stand in the other order."""
    first, second = value.chunk(2)
    return torch.cat([second, first])


def transformer_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of diffusers' SD3Transformer2DModel or FluxTransformer2DModel by their original names."""
    kind = "sd3" if "SD3" in type(model).__name__ else "flux"
    state, found = dict(model.state_dict()), {}
    if kind == "sd3":
        found["pos_embed"] = state.pop("pos_embed.pos_embed")
    lists = {"transformer_blocks": (kind, "joint_blocks" if kind == "sd3" else "double_blocks")}
    lists["single_transformer_blocks"] = ("single", "single_blocks")
    for name, (own, original) in lists.items():
        for i in range(len(getattr(model, name, ()))):
            begin, last = f"{name}.{i}.", kind == "sd3" and i == len(model.transformer_blocks) - 1
            for joined, parts in _JOINED[own].items():
                for leaf in ("weight", "bias"):
                    if f"{begin}{parts[0]}.{leaf}" in state:
                        pieces = [state.pop(f"{begin}{part}.{leaf}") for part in parts]
                        found[f"{original}.{i}.{joined}.{leaf}"] = torch.cat(pieces)
            for ours, theirs in _INNER[own].items():
                for leaf in ("weight", "bias"):
                    if (key := f"{begin}{ours}.{leaf}") in state:
                        value = state.pop(key)
                        value = _halves_swapped(value) if last and ours == "norm1_context.linear" else value
                        scale = kind == "flux" and "_norm" in theirs
                        found[f"{original}.{i}.{theirs}.{'scale' if scale else leaf}"] = value
    for leaf in ("weight", "bias"):
        found[f"final_layer.adaLN_modulation.1.{leaf}"] = _halves_swapped(state.pop(f"norm_out.linear.{leaf}"))
        for ours, theirs in _HEADS[kind].items():
            if f"{ours}.{leaf}" in state:
                found[f"{theirs}.{leaf}"] = state.pop(f"{ours}.{leaf}")
    assert not state, list(state)
    return found


def single_file(made: dict[str, Any], vae: dict[str, torch.Tensor], prefix: str = "model.diffusion_model.") -> dict:
    """What a single file with all parts holds. `made`: parts of the pipeline; `vae`: the VAE's weights by old names."""
    own = transformer_weights(made["transformer"])
    state = {prefix + key: value for key, value in own.items()}
    state |= {f"first_stage_model.{key}": value for key, value in vae.items()}
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl")):
        encoder = made.get(part)
        if encoder is None:
            continue
        if encoder.config.model_type == "t5":
            begin = "text_encoders.t5xxl.transformer."
            state |= {begin + k: v for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
            continue
        for key, value in encoder.state_dict().items():
            inner = "" if key.startswith("text_projection") else "text_model."
            state[f"text_encoders.{name}.transformer.{inner}{key.removeprefix('text_model.')}"] = value
    return {key: value.contiguous().clone() for key, value in state.items()}
