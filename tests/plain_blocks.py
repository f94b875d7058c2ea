"""diffusers' two blocks with an adapter, written out plainly from the definition of the positions (arXiv 2303.18181).

Uses the weights of a block and of an adapter and nothing else of theirs: no forward, no hook, no table.
"""

import torch
import torch.nn.functional as F

ACTIVATIONS = {"relu": torch.relu, "sig": torch.sigmoid, "silu": lambda x: x * torch.sigmoid(x), "ident": lambda x: x}


def attention(a, x, context):
    """Multi-head attention of (B, N, d) to (B, M, e)."""
    batch, tokens, _ = x.shape
    q, k, v = (F.linear(t, layer.weight) for t, layer in ((x, a.to_q), (context, a.to_k), (context, a.to_v)))
    q, k, v = (t.reshape(batch, t.shape[1], a.heads, -1).transpose(1, 2) for t in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    out = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
    return F.linear(out, a.to_out[0].weight, a.to_out[0].bias)


def feed_forward(ff, x):
    value, gate = F.linear(x, ff.net[0].proj.weight, ff.net[0].proj.bias).chunk(2, dim=-1)
    return F.linear(value * F.gelu(gate), ff.net[2].weight, ff.net[2].bias)


def token_adapter(state, activation, h):
    hidden = ACTIVATIONS[activation](F.linear(h, state["0.weight"], state["0.bias"]))
    return F.linear(hidden, state["2.weight"], state["2.bias"])


def feature_adapter(state, activation, groups, h):
    hidden = F.silu(F.group_norm(h, groups, state["0.weight"], state["0.bias"]))
    hidden = ACTIVATIONS[activation](F.conv2d(hidden, state["2.weight"], state["2.bias"], padding=1))
    return F.conv2d(hidden, state["4.weight"], state["4.bias"], padding=1)


def layer_norm(norm, x):
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def transformer_block(block, x, context, spec, state):
    """(B, N, d), (B, M, e) -> (B, N, d)."""
    read = {}

    def at(name, value):
        """The datapath is at a position: the adapter may read it, then it may be written."""
        if spec.din == name:
            read["adapter"] = token_adapter(state, spec.activation, value)
        return value + spec.scale * read["adapter"] if spec.dout == name else value

    x = at("attn1i", x)
    x = at("attn1o", attention(block.attn1, *[layer_norm(block.norm1, x)] * 2)) + x
    x = at("attn2i", x)
    context = at("attn2c", context)
    x = at("attn2o", attention(block.attn2, layer_norm(block.norm2, x), context)) + x
    x = at("ffni", x)
    x = at("ffno", feed_forward(block.ff, layer_norm(block.norm3, x))) + x
    return at("transo", x)


def resnet_block(block, x, temb, spec, state, groups):
    """(B, c_in, H, W), (B, t) -> (B, c_out, H, W). groups: of the adapter's norm."""
    read = {}

    def at(name, value):
        if spec.din == name:
            read["adapter"] = feature_adapter(state, spec.activation, groups, value)
        return value + spec.scale * read["adapter"] if spec.dout == name else value

    x = at("resi", x)
    norm1, norm2, time = block.norm1, block.norm2, block.time_emb_proj
    h = F.silu(F.group_norm(x, norm1.num_groups, norm1.weight, norm1.bias, norm1.eps))
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = h + F.linear(F.silu(temb), time.weight, time.bias)[:, :, None, None]
    h = F.silu(F.group_norm(h, norm2.num_groups, norm2.weight, norm2.bias, norm2.eps))
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    if block.conv_shortcut is not None:
        x = F.conv2d(x, block.conv_shortcut.weight, block.conv_shortcut.bias)
    return at("reso", x + h)
