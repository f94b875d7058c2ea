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

    A seed that was used with one level only tells nothing about differences between levels once seeds are blocks: its
    runs are set aside and named, and the block is kept. Where most runs have such a seed, seeds only tell replicates
    apart; then there is no block and nothing is set aside.
    """
    if factor == SEED or SEED not in frame or frame[SEED].nunique() < 2 or frame[SEED].isna().any():
        return Blocking(frame, None)
    levels = frame.groupby(SEED)[factor].nunique()
    shared = levels.index[levels > 1]
    kept = frame[frame[SEED].isin(shared)]
    if len(shared) < 2 or 2 * len(kept) <= len(frame) or kept[factor].nunique() < 2:
        return Blocking(frame, None)
    lone = sorted(levels.index[levels <= 1], key=str)
    if not lone:
        return Blocking(frame, SEED)
    runs, seeds = len(frame) - len(kept), ", ".join(map(str, lone))
    plain = factor.strip("()")
    what = plain if plain in ("design", "placement") else f"level of {plain}"
    said = (
        f"{runs} {'run' if runs == 1 else 'runs'} with {'seed' if len(lone) == 1 else 'seeds'} {seeds} "
        f"{'is' if runs == 1 else 'are'} set aside, as {'that seed was' if len(lone) == 1 else 'each of these was'} "
        f"used with one {what} only and so tells no difference."
    )
    gone = sorted(set(frame[factor].dropna()) - set(kept[factor]), key=str)
    said += f" Not compared for that reason: {', '.join(map(str, gone))}." if gone else ""
    return Blocking(kept, SEED, said, lone)
