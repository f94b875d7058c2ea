"""The seed as a block: which seeds can be one, and what is set aside so that the others can."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

SEED = "seed"


@dataclass(frozen=True)
class Blocking:
    """The runs to test, the block to test them with (None: no seed was shared), and a sentence on what is set aside."""

    frame: pd.DataFrame
    block: str | None
    said: str = ""
    lone: list[object] = field(default_factory=list)


def block_of(frame: pd.DataFrame, factor: str) -> Blocking:
    """The seed as a block where most runs have a seed that several levels of the factor share.

    frame.attrs["block"] names another column in its place, or is None where there is to be no block. A seed that was
    used with one level only tells nothing about differences between levels once seeds are blocks: its runs are set
    aside and named, and the block is kept. Where most runs have such a seed, seeds only tell replicates apart; then
    there is no block and nothing is set aside.

    >>> runs = pd.DataFrame({"placement": ["a", "b", "a", "b"], "seed": [0, 0, 1, 1], "score": [1.0, 2.0, 1.5, 2.0]})
    >>> block_of(runs, "placement").block
    'seed'
    """
    name = frame.attrs.get("block", SEED)
    if name is None or factor == name or name not in frame or frame[name].nunique() < 2 or frame[name].isna().any():
        return Blocking(frame, None)
    levels = frame.groupby(name)[factor].nunique()
    shared = levels.index[levels > 1]
    kept = frame[frame[name].isin(shared)]
    if len(shared) < 2 or 2 * len(kept) <= len(frame) or kept[factor].nunique() < 2:
        return Blocking(frame, None)
    lone = sorted(levels.index[levels <= 1], key=str)
    if not lone:
        return Blocking(frame, name)
    runs, seeds = len(frame) - len(kept), ", ".join(map(str, lone))
    plain = factor.strip("()")
    what = plain if plain in ("design", "placement") else f"level of {plain}"
    said = (
        f"{runs} {'run' if runs == 1 else 'runs'} with {name} {seeds} "
        f"{'is' if runs == 1 else 'are'} set aside, as {f'that {name} was' if len(lone) == 1 else 'each of these was'} "
        f"used with one {what} only and so tells no difference."
    )
    gone = sorted(set(frame[factor].dropna()) - set(kept[factor]), key=str)
    said += f" Not compared for that reason: {', '.join(map(str, gone))}." if gone else ""
    return Blocking(kept, name, said, lone)
