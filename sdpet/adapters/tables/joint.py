"""Blocks with an image stream and a text stream and one joint attention: SD3, SD3.5, Flux, Qwen-Image.

Datapath of each stream; the gates come from the timestep (and pooled text):

    x1 = x0 + gate1 * attn(norm1(x0), ...);  x2 = x1 + gate2 * ff(norm2(x1))

As a gate multiplies what attention gives, adding to the output of `attn` is not adding to x1. A write to x1 is the
same addition twice: to the input of norm2, which begins the branch, and to the block's output, where the skip ends.
"""

from sdpet.adapters.tables.table import BlockTable, Place, Tap, attention_projections, feed_forward_projections

IMAGE, TEXT = ("hidden_states", 1), ("encoder_hidden_states", 0)  # argument, and index among the block's outputs


def _stream(
    prefix: str, ends: tuple[str, int], norm: str, ff: str, second: tuple[Place, ...] = ()
) -> tuple[Place, ...]:
    """The places of one stream; `second` are those of a second attention."""
    argument, index = ends
    stream = "text" if prefix else "transformer"
    width = "attn.add_q_proj.in_features" if prefix else "attn.to_q.in_features"
    start, after, end = Tap("", "in", argument), Tap(norm, "in"), Tap("", "out", index=index)
    attention = Tap(
        "attn", "out", index=1 - index, own=True
    )  # attention gives image, text; the block gives text, image
    return (
        Place(f"{prefix}attn1i", (start,), (start,), width, stream=stream),
        *attention_projections(f"{prefix}attn1", "attn", added=bool(prefix)),
        Place(f"{prefix}attn1o", (attention,), (), width, stream=stream),
        *second,
        Place(f"{prefix}ffni", (after,), (after, end), width, stream=stream),
        *feed_forward_projections(f"{prefix}ff", ff),
        Place(f"{prefix}ffno", (Tap(ff, "out", own=True),), (), width, stream=stream),
        # the text stream of SD3's last block ends before its feed-forward, so that the block gives None
        Place(f"{prefix}transo", (end,), (end,), width, stream=stream, needs=(ff,)),
    )


_DUAL = (  # SD3.5: a second attention of the image alone, beside the joint one
    *attention_projections("dual", "attn2"),
    Place("dualo", (Tap("attn2", "out", own=True),), (), "attn.to_q.in_features"),
)

SD3 = BlockTable(
    "JointTransformerBlock",
    (*_stream("", IMAGE, "norm2", "ff", _DUAL), *_stream("text_", TEXT, "norm2_context", "ff_context")),
)
FLUX = BlockTable(
    "FluxTransformerBlock",
    (*_stream("", IMAGE, "norm2", "ff"), *_stream("text_", TEXT, "norm2_context", "ff_context")),
)
QWEN = BlockTable(
    "QwenImageTransformerBlock",
    (*_stream("", IMAGE, "img_norm2", "img_mlp"), *_stream("text_", TEXT, "txt_norm2", "txt_mlp")),
)
