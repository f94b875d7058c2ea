"""The race of a study, in `.race.json` beside its plan: its rules, the scores it has seen and what it decided."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from analysis.sequential.races import Race
from analysis.sequential.result import RaceResult
from analysis.sequential.schedule import LOOKS, MOST
from sdpet.files.atomic import write_atomic

FILE = ".race.json"
FORMAT = 1
LARGEST = 50_000_000  # bytes; a race of 1,000 designs takes 3 million


@dataclass
class StoredRace:
    """The race of a study.

    Parameters
    ----------
    score, maximize
        The score that decides, and whether larger values are better.
    asked
        d as it was asked for: a number, or a share of floor to ceiling such as "3%".
    d
        The difference that matters, in the unit of the score; None until floor and ceiling are known.
    alpha, most
        The error rate, and the last look in seeds.
    seeds
        The seeds in the order in which they are used: one for each seed of the last possible look.
    designs
        The id of each design by its name.
    scores
        The scores that looks have used, by design and seed; None where the run diverged or failed.
    runs
        The run id of each of these, by design and seed.
    looks
        What each look decided; for readers, as the scores give it again.
    before
        How many runs of the study had ended when the race was set up.
    outside
        Ids of runs in the folder that are not of the race.
    fresh, fresh_runs
        Seeds on which the leader was trained again, and the run ids of each design that was.
    said
        Lines on where the race stands.
    """

    score: str
    maximize: bool
    asked: float | str
    d: float | None
    alpha: float
    most: int
    seeds: list[int]
    designs: dict[str, str]
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    looks: list[dict[str, Any]] = field(default_factory=list)
    before: int = 0
    outside: list[str] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    fresh_runs: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def race(self) -> Race:
        """The race with the scores seen so far. Before d is known, the runs it asks for do not depend on it."""
        held = Race(
            self.designs, self.d or 1.0, alpha=self.alpha, most=self.most, maximize=self.maximize, seeds=self.seeds
        )
        for design, by_seed in self.scores.items():
            held.tell({(design, int(seed)): score for seed, score in by_seed.items()})
        return held

    def keep(self, result: RaceResult) -> None:
        """Note what the looks so far decided."""
        self.looks = looks_of(result)
        self.said = lines_of(self, result)

    def write(self, folder: Path) -> None:
        """Write the file whole, or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"
        write_atomic(folder / FILE, lambda file: file.write_text(text, encoding="utf-8"))


def read_race(folder: Path) -> StoredRace | None:
    """The race of a study; None where there is none.

    Raises
    ------
    ValueError
        The file is damaged, or of a later version.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); mend it, or give the study another name.") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is no race of this version; mend it, or give the study another name (study=NAME).")
    try:
        found = StoredRace(**content)
        _check(found)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); mend it, or give the study another name.") from None
    return found


def _check(race: StoredRace) -> None:
    texts = isinstance(race.score, str) and all(isinstance(name, str) for name in race.designs)
    numbers = race.d is None or (isinstance(race.d, float | int) and 0 < race.d < math.inf)
    whole = [isinstance(seed, int) for seed in race.seeds]
    known = all(
        design in race.designs and int(seed) in race.seeds and (score is None or isinstance(score, float | int))
        for design, by_seed in race.scores.items()
        for seed, score in by_seed.items()
    )
    lists = all(isinstance(getattr(race, f.name), list) for f in fields(race) if str(f.type).startswith("list"))
    if not (texts and numbers and known and lists and all(whole) and len(whole) == MOST and race.most in LOOKS):
        raise ValueError("its content is not that of a race")
    race.race()


def looks_of(result: RaceResult) -> list[dict[str, Any]]:
    """The looks of a race as plain values: how many were compared, the leader, who left and why, who is parked."""
    found = []
    for seeds, look in result.looks.iterrows():
        left = result.bounds.loc[result.bounds["look"].eq(seeds).fillna(False)]
        found.append({
            "seeds": int(str(seeds)), "spent": float(look["spent"]), "compared": int(look["compared"]),
            "leader": look["leader"],
            "out": [{"design": level, "by": row["by"], "bound": None if math.isnan(row["bound"]) else row["bound"]}
                    for level, row in left.iterrows()],
            "parked": list(look["parked"]), "back": list(look["back"]), "undecided": int(look["undecided"]),
            "sd": None if math.isnan(look["sd"]) else float(look["sd"]), "df": int(look["df"]),
            "regret": float(look["regret"]),
        })  # fmt: skip
    return found


def lines_of(race: StoredRace, result: RaceResult) -> list[str]:
    """Lines on where a race stands: its rules, one line a look, and what it says."""
    d = f"{race.asked} of floor to ceiling" if isinstance(race.asked, str) else f"{race.asked:g}"
    d += f" ({race.d:.3g})" if isinstance(race.asked, str) and race.d is not None else ""
    way = "larger" if race.maximize else "smaller"
    lines = [f"  race      {race.score} ({way} is better), d {d}, alpha {race.alpha:g}, {race.most} seeds at most"]
    for look in race.looks:
        out = ", ".join(_left(each) for each in look["out"])
        counts = f"worse than the best by {look['regret']:.3g} at most, "
        counts += f"{len(look['parked'])} parked, {look['undecided']} undecided"
        back = f"; back: {', '.join(look['back'])}" if look["back"] else ""
        lines.append(
            f"  look {look['seeds']:<4} {look['spent']:.3g} of alpha spent, leader {look['leader']}, {counts}"
            + (f"; out: {out}" if out else "") + back
        )  # fmt: skip
    return [*lines, f"            {result}"]


def _left(each: dict[str, Any]) -> str:
    if each["bound"] is None:
        return f"{each['design']} (diverged)"
    return f"{each['design']} (worse than {each['by']} by {-each['bound']:.3g} at least)"
