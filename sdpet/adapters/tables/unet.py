"""The blocks of diffusers' UNets.

Two facts shape the table (names as in the datapath of `BasicTransformerBlock`):

    x1 = attn1(norm1(x0)) + x0;  x2 = attn2(norm2(x1), context) + x1;  x3 = ff(norm3(x2)) + x2

- x1 and x2 exist only inside `forward`. They are *read* as the sum of their terms: x1 is the input of norm1
  plus the output of attn1.
- A *write* to x1 has to reach the branch (norm2) and the skip (the "+ x1"). Addition commutes, so adding to
  the output of attn1 is adding to x1. Changing the input of norm2 would miss the skip, and would be wrong.

References: Xiang et al., arXiv 2303.18181, and its published configuration files.
"""

from sdpet.adapters.tables.table import BlockTable, Place, Tap, attention_projections, feed_forward_projections

_X0 = (Tap("", "in", "hidden_states"),)
_SA = (Tap("attn1", "out"),)
_CONTEXT = (Tap("attn2", "in", "encoder_hidden_states"),)
_CA = (Tap("attn2", "out"),)
_OUT = (Tap("", "out"),)
_X1 = (Tap("norm1", "in"), *_SA)
_X2 = (Tap("norm2", "in"), *_CA)

TRANSFORMER = BlockTable(
    "BasicTransformerBlock",
    only={"norm_type": "layer_norm"},
    places=(
        Place("attn1i", _X0, _X0, "dim"),
        *attention_projections("attn1", "attn1"),
        Place("attn1o", (Tap("attn1", "out", own=True),), (), "dim"),
        Place("attn2i", _X1, _SA, "dim"),
        Place("attn2c", _CONTEXT, _CONTEXT, "attn2.cross_attention_dim", stream="context"),
        *attention_projections("attn2", "attn2"),
        Place("attn2o", (Tap("attn2", "out", own=True),), (), "dim"),
        Place("ffni", _X2, _CA, "dim"),
        *feed_forward_projections("ff", "ff"),
        Place("ffno", (Tap("ff", "out", own=True),), (), "dim"),
        Place("transo", _OUT, _OUT, "dim"),
    ),
)

_RES_IN = (Tap("", "in", "input_tensor"),)

RESNET = BlockTable(
    "ResnetBlock2D",
    skip=("up", "down"),  # blocks that change the resolution
    places=(
        Place("resi", _RES_IN, _RES_IN, "in_channels", stream="resnet", layout="map", groups="norm1.num_groups"),
        Place("reso", _OUT, _OUT, "out_channels", stream="resnet", layout="map", groups="norm2.num_groups"),
    ),
)
