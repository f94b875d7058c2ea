"""The blocks of CLIP's text encoder, of the package transformers.

    x1 = x0 + self_attn(layer_norm1(x0));  x2 = x1 + mlp(layer_norm2(x1))

Names mean what they mean in a denoiser, so a placement such as attn1o-ffni exists in both. There is no gate: adding to
what self_attn gives is adding to x1, for the branch and the skip. As in UNets, x1 is read as the sum of its terms.
"""

from sdpet.adapters.tables.table import BlockTable, Place, Tap, projection

_WIDTH = "embed_dim"
# transformers keeps the states of all layers by hooks; those that are kept must be those that the next layer gets
_START, _END = (Tap("", "in", "hidden_states"),), (Tap("", "out", first=True),)
_ATTENTION = (Tap("self_attn", "out", index=0),)  # it gives the states and its weights
_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}

CLIP = BlockTable(
    "CLIPEncoderLayer",
    package="transformers",
    places=(
        Place("attn1i", _START, _START, _WIDTH),
        *(projection(f"attn1.{name}", f"self_attn.{layer}") for name, layer in _PROJECTIONS.items()),
        Place("attn1o", (Tap("self_attn", "out", index=0, own=True),), (), _WIDTH),
        Place("ffni", (Tap("layer_norm1", "in"), *_ATTENTION), _ATTENTION, _WIDTH),
        projection("ff.in", "mlp.fc1"),
        projection("ff.out", "mlp.fc2"),
        Place("ffno", (Tap("mlp", "out", own=True),), (), _WIDTH),
        Place("transo", _END, _END, _WIDTH),
    ),
)
