"""Input and output position of a placement study, for the first paragraph of a report: which of the two matters."""

from __future__ import annotations

import pandas as pd

from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.joint import METHOD, claim_of
from analysis.conclusions.words import f_words, name_of, objection, omega_words, test_words
from analysis.variance.verdict import ALPHA, LEVEL, verdicts


def positions(frame: pd.DataFrame, metric: str, block: str | None, type: int = 2) -> Part:
    """din and dout together in the additive model, where it leaves a residual, with Holm over the two."""
    names = [c for c in ("din", "dout") if c in frame and frame[c].nunique() > 1]
    if len(names) < 2:
        return Part()
    table = verdicts(frame, metric, names, block, type)
    if not table["F"].notna().all():  # few placements, in which one determines the other: the placement says it all
        return Part()
    texts = []
    for name, row in table.iterrows():
        if row["p_claim"] < ALPHA:
            texts.append(
                f"{name_of(str(name))} matters ({test_words(row, 2)}, {omega_words(row)} of what the rest leaves)"
            )
        elif row["p"] < ALPHA:
            texts.append(f"{name_of(str(name))} is undecided ({f_words(row)}, but {objection(row, 2)})")
        else:
            texts.append(f"{name_of(str(name))} cannot be shown to matter ({f_words(row)})")
    text = (
        "With the output adjusted for the input, " if type == 1 else "With each adjusted for the other, "
    ) + " and ".join(texts)
    if table.attrs["components"] > 1:
        text += (
            f"; this compares levels only within the {table.attrs['components']} parts of the design that share no "
            "position"
        )
    claims = [claim_of(str(name), row, metric) for name, row in table.iterrows()]
    more = _not_additive(frame, metric, block)
    return Part([text + ".", *more.sentences], [*claims, *more.claims])


def _not_additive(frame: pd.DataFrame, metric: str, block: str | None) -> Part:
    """Whether input and output act together, where replicates tell it."""
    if frame.groupby("placement").size().max() < 2:
        return Part()
    row = verdicts(frame, metric, ["din", "dout", "din:dout"], block).loc["din:dout"]
    if not row["F"] >= 0:
        return Part()
    claim = Claim("acts together", "din:dout", "yes" if row["p_claim"] < ALPHA else "undecided",
                  f"input and output act together on {metric}", row["omega2_partial"], row["omega2_low"],
                  row["omega2_high"], LEVEL, row["p_claim"], int(row["units"]), METHOD)  # fmt: skip
    if claim.verdict != "yes":
        return Part([], [claim])
    said = (
        f"Input and output act together (din:dout {f_words(row)}): what an input does depends on the output, so the "
        "two tests before are about averages."
    )
    return Part([said], [claim])
