"""Flux's single blocks: text and image are one sequence, and attention and MLP run in parallel.

    x = [text, image];  out = x + gate * proj_out([attn(norm(x)), act_mlp(proj_mlp(norm(x)))])

The block gets and gives the two parts apart, text first. There is no stream between attention and MLP.
"""

from sdpet.adapters.tables.table import BlockTable, Place, Tap, attention_projections, projection

_WIDTH = "attn.to_q.in_features"
_IN = (Tap("", "in", "encoder_hidden_states"), Tap("", "in", "hidden_states"))
_OUT = (Tap("", "out", index=0), Tap("", "out", index=1))

FLUX = BlockTable(
    "FluxSingleTransformerBlock",
    (
        Place("joint_attn1i", _IN, _IN, _WIDTH, stream="joint", joined=True),
        *attention_projections("joint_attn1", "attn", layers="q k v"),
        projection("joint_ff.in", "proj_mlp"),
        Place("joint_attn1o", (Tap("attn", "out", own=True),), (), _WIDTH, stream="joint"),
        projection("joint_ff.out", "proj_out"),  # of attention and MLP together
        Place("joint_transo", _OUT, _OUT, _WIDTH, stream="joint", joined=True),
    ),
)
