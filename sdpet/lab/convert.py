"""The text encoder of an open_clip.CLIP as a transformers CLIPTextModel: the same arithmetic under other names."""

from __future__ import annotations

import torch


def text_tower(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert the weights of open_clip's text encoder to those of transformers' CLIPTextModel.

    The result's `last_hidden_state` is what open_clip has after `ln_final`, before pooling; Stable Diffusion v1 is
    conditioned on it. The projection is left out, as there.

    Parameters
    ----------
    state : dict of str to Tensor
        State dict of the whole open_clip.CLIP.

    Returns
    -------
    dict of str to Tensor
        State dict of a CLIPTextModel.
    """
    out = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "final_layer_norm.weight": state["ln_final.weight"],
        "final_layer_norm.bias": state["ln_final.bias"],
    }
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("transformer.resblocks."))
    for i in range(layers):
        source, target = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for end in ("weight", "bias"):
            for theirs, ours in names.items():
                out[f"{target}.{ours}.{end}"] = state[f"{source}.{theirs}.{end}"]
            query, key, value = state[f"{source}.attn.in_proj_{end}"].chunk(3)
            out[f"{target}.self_attn.q_proj.{end}"] = query
            out[f"{target}.self_attn.k_proj.{end}"] = key
            out[f"{target}.self_attn.v_proj.{end}"] = value
    return out
