"""Names of layers in files of LoRA and its relatives: kohya's, the original checkpoints', diffusers' and peft's."""

from __future__ import annotations

import re

# What kohya's names begin with, by diffusers' name of the part; with one text encoder and with two.
KOHYA = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
TRANSFORMER = "transformer."
_BLOCK = r"(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)"
_UNET = re.compile(
    rf"{_BLOCK}\.attentions\.\d+\.(proj_in|proj_out)|"
    rf"{_BLOCK}\.attentions\.\d+\.transformer_blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))|"
    rf"{_BLOCK}\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|"
    r"down_blocks\.\d+\.downsamplers\.0\.conv|up_blocks\.\d+\.upsamplers\.0\.conv|"
    r"conv_in|conv_out|(time|add)_embedding\.linear_[12]"
)
_TEXT = re.compile(r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])|text_projection")
# Layers outside of the blocks, and in a block of convolutions, by their original names.
_OUTSIDE = {
    "input_blocks.0.0": "conv_in", "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
}  # fmt: skip
_RESNET = {
    "in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
_MIDDLE = ("resnets.0", "attentions.0", "resnets.1")
LEVEL = 3  # an original checkpoint counts blocks over all levels; a level of Stable Diffusion v1, v2 and XL has three
_WORDS = """
    down_blocks up_blocks mid_block input_blocks output_blocks middle_block attentions resnets downsamplers upsamplers
    transformer_blocks attn1 attn2 to_q to_k to_v to_out ff net proj proj_in proj_out conv1 conv2 conv_shortcut
    time_emb_proj conv conv_in conv_out time_embedding add_embedding linear_1 linear_2 in_layers out_layers emb_layers
    skip_connection op out time_embed label_emb text_model encoder layers self_attn mlp q_proj k_proj v_proj out_proj
    fc1 fc2 text_projection [0-9]+
"""
# Words may themselves contain underscores, so the longest ones are looked for first.
_WORD = re.compile("|".join(sorted(_WORDS.split(), key=len, reverse=True)))
_IN_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}  # older diffusers' names


def layer_path(name: str) -> str | None:
    """The part and the path of a layer that a file names.

    Parameters
    ----------
    name : str
        A key of the file without the name of the weight, such as ``lora_unet_mid_block_attentions_0_proj_in``.

    Returns
    -------
    str or None
        Such as ``unet.mid_block.attentions.0.proj_in``; None if no linear layer or convolution of Stable Diffusion's
        UNet or of CLIP's text encoders has this name. Names in other transformers are not looked at.
    """
    for part, kohyas in KOHYA.items():
        for begins in kohyas:
            if name.startswith(begins):
                return _known(part, _dotted(name.removeprefix(begins)))
    name = re.sub(r"(_lora|\.lora|\.lora_linear_layer)$", "", name.replace(".processor.", "."))
    name = name.removeprefix("base_model.model.")
    if name.startswith(TRANSFORMER):
        return name
    for part in KOHYA:
        if name.startswith(f"{part}."):
            return _known(part, name.removeprefix(f"{part}."))
    return _known("unet", name.removeprefix("diffusion_model."))


def kohya_name(path: str, several: bool) -> str:
    """What kohya's files call a layer.

    Parameters
    ----------
    path : str
        With its part, as `layer_path` gives it; without a part it is of the UNet.
    several : bool
        Whether the file is for a model with two text encoders.

    Returns
    -------
    str
        Such as ``lora_unet_mid_block_attentions_0_proj_in``.
    """
    part, _, inner = path.partition(".")
    if part not in KOHYA:
        part, inner = "unet", path
    return KOHYA[part][-1 if several else 0] + inner.replace(".", "_")


def _dotted(name: str) -> str:
    """A path whose dots became underscores; an empty one if it has unknown words."""
    words = _WORD.findall(name)
    return ".".join(words) if "_".join(words) == name else ""


def _known(part: str, path: str) -> str | None:
    if part == "unet":
        path = re.sub(r"\.to_out$", ".to_out.0", _in_diffusers_names(path))
        return f"{part}.{path}" if _UNET.fullmatch(path) else None
    path = path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"
    before, _, last = path.rpartition(".")
    path = f"{before}.{_IN_TEXT[last]}" if last in _IN_TEXT else path
    return f"{part}.{path}" if _TEXT.fullmatch(path) else None


def _in_diffusers_names(path: str) -> str:
    """A path in a UNet, also in the original numbering, by diffusers' names."""
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        return f"mid_block.{_MIDDLE[int(found[1])]}.{_RESNET.get(found[2], found[2])}"
    found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", path)
    if found is None:
        return path
    down, inner, rest = found[1] == "input", int(found[3]), found[4]
    number = int(found[2]) - down  # the first of input_blocks is conv_in
    block = f"{'down' if down else 'up'}_blocks.{number // LEVEL}"
    if rest in ("op", "conv"):
        return f"{block}.{'down' if down else 'up'}samplers.0.conv"
    kind = "attentions" if inner else "resnets"
    return f"{block}.{kind}.{number % LEVEL}.{_RESNET.get(rest, rest)}"
