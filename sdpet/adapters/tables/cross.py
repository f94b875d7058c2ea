"""Blocks with adaptive norms whose image stream reads the text by cross-attention: PixArt, Sana, Wan.

    x1 = x0 + gate1 * attn1(norm1(x0));  x2 = x1 + attn2(x1, context);  x3 = x2 + gate2 * ff(norm2(x2))

Cross-attention has no gate, so adding to its output is adding to x2. Self-attention has one: a write to x1 is the same
addition twice, to what cross-attention reads (the branch) and to what it gives (where the skip is added).
x2 is read as the sum of x1 and the output of cross-attention, as a write to x2 comes before the next norm is computed.
PixArt and Sana have no norm before cross-attention; Wan has one (norm2).
"""

from sdpet.adapters.tables.table import BlockTable, Place, Tap, attention_projections, feed_forward_projections

_WIDTH = "attn1.to_q.in_features"


def _places(x1: Tap, feed_forward: Tap, projections: tuple[Place, ...]) -> tuple[Place, ...]:
    """x1: where the stream is read after self-attention."""
    start, end, crossed = Tap("", "in", "hidden_states"), Tap("", "out"), Tap("attn2", "out")
    attention = Tap("attn2", "out", own=True)  # without what was added to x1 there
    context = (Tap("attn2", "in", "encoder_hidden_states"),)
    return (
        Place("attn1i", (start,), (start,), _WIDTH),
        *attention_projections("attn1", "attn1"),
        Place("attn1o", (Tap("attn1", "out", own=True),), (), _WIDTH),
        Place("attn2i", (x1,), (x1, crossed), _WIDTH),
        Place("attn2c", context, context, "attn2.to_k.in_features", stream="context"),
        *attention_projections("attn2", "attn2"),
        Place("attn2o", (attention,), (), _WIDTH),
        Place("ffni", (x1, attention), (crossed,), _WIDTH),
        *projections,
        Place("ffno", (feed_forward,), (), _WIDTH),
        Place("transo", (end,), (end,), _WIDTH),
    )


_QUERY = Tap("attn2", "in", "hidden_states")
PIXART = BlockTable(
    "BasicTransformerBlock",
    _places(_QUERY, Tap("ff", "out", own=True), feed_forward_projections("ff", "ff")),
    only={"norm_type": "ada_norm_single"},
)
# Sana's feed-forward is convolutions on a feature map, so it has no linear layers
SANA = BlockTable("SanaTransformerBlock", _places(_QUERY, Tap("ff", "out", is_map=True, own=True), ()))
WAN = BlockTable(
    "WanTransformerBlock",
    _places(Tap("norm2", "in"), Tap("ffn", "out", own=True), feed_forward_projections("ff", "ffn")),
)
