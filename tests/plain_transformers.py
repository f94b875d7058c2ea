"""The blocks of diffusers' transformers with an adapter, written out from the definition of the positions.

Each function gets a block without hooks and computes its datapath itself, from norms, attention and feed-forward that
the block holds. `at(name, value)` is where the datapath is at a position: the adapter may read it, then write it.
"""

import torch


class At:
    """Designs, each with the function of its adapter: they read at spec.din and write at spec.dout."""

    def __init__(self, *designs):
        self.designs = designs
        self.deltas = {}

    def __call__(self, name, value):
        for number, (spec, adapter) in enumerate(self.designs):
            if spec.din == name:
                self.deltas[number] = spec.scale * adapter(value)
        return value + sum(self.deltas[n] for n, (spec, _) in enumerate(self.designs) if spec.dout == name)


def joint(block, at, image, text, temb):
    """SD3, SD3.5 and Flux: image (B, N, d), text (B, T, d), temb (B, d) -> text, image."""
    image, text = at("attn1i", image), at("text_attn1i", text)
    read, gate, shift, scale, gate_mlp, *dual = block.norm1(image, emb=temb)
    last = getattr(block, "context_pre_only", False)
    if last:
        text_read = block.norm1_context(text, temb)
    else:
        text_read, *text_gates = block.norm1_context(text, emb=temb)
    attended, text_attended = block.attn(hidden_states=read, encoder_hidden_states=text_read)
    image = image + gate[:, None] * at("attn1o", attended)
    if dual:
        image = image + dual[1][:, None] * at("dualo", block.attn2(hidden_states=dual[0]))
    image = at("ffni", image)
    fed = at("ffno", block.ff(block.norm2(image) * (1 + scale[:, None]) + shift[:, None]))
    image = at("transo", image + gate_mlp[:, None] * fed)
    if last:
        return None, image
    gate, shift, scale, gate_mlp = (g[:, None] for g in text_gates)
    text = at("text_ffni", text + gate * at("text_attn1o", text_attended))
    fed = at("text_ffno", block.ff_context(block.norm2_context(text) * (1 + scale) + shift))
    return at("text_transo", text + gate_mlp * fed), image


def qwen(block, at, image, text, temb):
    """Qwen-Image: as above."""
    image, text = at("attn1i", image), at("text_attn1i", text)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.img_mod(temb)[:, None].chunk(6, -1)
    t_shift1, t_scale1, t_gate1, t_shift2, t_scale2, t_gate2 = block.txt_mod(temb)[:, None].chunk(6, -1)
    attended, text_attended = block.attn(
        hidden_states=block.img_norm1(image) * (1 + scale1) + shift1,
        encoder_hidden_states=block.txt_norm1(text) * (1 + t_scale1) + t_shift1,
        encoder_hidden_states_mask=torch.ones(text.shape[:2], dtype=torch.bool),
    )
    image = at("ffni", image + gate1 * at("attn1o", attended))
    text = at("text_ffni", text + t_gate1 * at("text_attn1o", text_attended))
    image = image + gate2 * at("ffno", block.img_mlp(block.img_norm2(image) * (1 + scale2) + shift2))
    text = text + t_gate2 * at("text_ffno", block.txt_mlp(block.txt_norm2(text) * (1 + t_scale2) + t_shift2))
    return at("text_transo", text), at("transo", image)


def single(block, at, image, text, temb):
    """Flux's single block: as above."""
    length = text.shape[1]
    joined = at("joint_attn1i", torch.cat([text, image], dim=1))
    read, gate = block.norm(joined, emb=temb)
    attended = at("joint_attn1o", block.attn(hidden_states=read))
    fed = block.act_mlp(block.proj_mlp(read))
    joined = at("joint_transo", joined + gate[:, None] * block.proj_out(torch.cat([attended, fed], dim=2)))
    return joined[:, :length], joined[:, length:]


def cross(block, at, image, context, time, grid=None):
    """PixArt and Sana: image (B, N, d), context (B, T, e), time (B, 6 d) -> image. grid: height, width for Sana."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table + time.reshape(len(time), 6, -1)).chunk(
        6, 1
    )
    image = at("attn1i", image)
    image = at("attn2i", image + gate1 * at("attn1o", block.attn1(block.norm1(image) * (1 + scale1) + shift1)))
    context = at("attn2c", context)
    image = at("ffni", image + at("attn2o", block.attn2(image, encoder_hidden_states=context)))
    read = block.norm2(image) * (1 + scale2) + shift2
    if grid is None:
        fed = block.ff(read)
    else:
        fed = block.ff(read.unflatten(1, grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
    return at("transo", image + gate2 * at("ffno", fed))


def wan(block, at, image, context, time, rotary):
    """Wan: as above, with the norms in float32."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table + time.float()).chunk(6, 1)
    image = at("attn1i", image)
    read = block.norm1(image.float()) * (1 + scale1) + shift1
    image = at("attn2i", image + gate1 * at("attn1o", block.attn1(read.double(), None, None, rotary)))
    context = at("attn2c", context)
    image = at("ffni", image + at("attn2o", block.attn2(block.norm2(image.float()).double(), context, None, None)))
    fed = block.ffn((block.norm3(image.float()) * (1 + scale2) + shift2).double())
    return at("transo", image + gate2 * at("ffno", fed))
