"""What a report is about: the runs of one study, the score, the factors that vary and the designs they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.comparisons.family import family as test_family
from analysis.conclusions.joint import own_factors
from analysis.linear_model.blocks import Blocking, block_of
from analysis.linear_model.units import unit_ids, with_units
from analysis.planning.looks import looked, looks_note
from analysis.planning.registered import Registration
from analysis.report.raced import Raced, raced
from analysis.report.registered import as_registered, registered_note
from analysis.report.words import Metric, factor_words, level_words, metric_words
from analysis.runs.asked import Asked, Choices, choose, runs_to_compare, said_of_block
from analysis.runs.load import factor_columns, higher_is_better, load_results
from analysis.runs.progress import confirming
from analysis.runs.records import FIRST, with_scores
from analysis.runs.roles import is_of_records
from sdpet.files.record_file import read_record

DESIGN = "(design)"  # a column that no table has


@dataclass
class Study:
    """Runs and choices of one report.

    runs: every run, whatever its end. done: finished runs that have the score. metric: column of the score.
    factors: columns that vary, without the seed. design: column that tells designs apart ("placement" or "design").
    model: terms of the joint model, where they were asked for. scores: which scores of the runs, see `load_results`.
    block: the seed, or what was asked for, where most runs have one that several designs share; runs with another are
    set aside, see `blocks.block_of`, and in no number of the page; aside says so. within: a margin of the score.
    registration: the question that was stored before or after the runs, if any. fresh: runs
    of the best on fresh seeds, which are in no other number of the page. raced: the race that the study was, if it was
    one; runs are then those on its first two seeds.
    choices: what was asked for and what was guessed. notes: what was left out.
    """

    name: str
    source: Path
    runs: pd.DataFrame
    done: pd.DataFrame
    metric: str
    metrics: list[str]
    factors: list[str]
    design: str
    notes: list[str] = field(default_factory=list)
    model: list[str] = field(default_factory=list)
    scores: str = FIRST
    choices: Choices = field(default_factory=Choices)
    block: str | None = None
    within: float | None = None
    aside: str = ""
    registration: Registration | None = None
    fresh: pd.DataFrame | None = None
    raced: Raced | None = None

    @property
    def words(self) -> Metric:
        return self.words_of(self.metric)

    def words_of(self, metric: str) -> Metric:
        return metric_words(metric, ours=is_of_records(self.runs))

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.metric)

    @property
    def seeds(self) -> list[Any]:
        return sorted(self.done["seed"].dropna().unique().tolist()) if "seed" in self.done else []

    @cached_property
    def shares_trainings(self) -> bool:
        """Whether several designs come from one training (another guidance of its samples, say)."""
        ids = unit_ids(self.done, self.factors)
        if ids is None or self.design not in self.done:
            return False
        return bool((self.done.groupby(ids)[self.design].nunique() > 1).any())

    @property
    def has_placements(self) -> bool:
        """Whether there are placements of which more than one was tried."""
        return {"din", "dout", "placement"} <= set(self.done) and self.done["placement"].nunique() > 1

    @property
    def is_of_placements(self) -> bool:
        """Whether placements are all that was tried."""
        return self.has_placements and set(self.factors) <= {"din", "dout", "placement"}

    @cached_property
    def terms(self) -> list[str]:
        """Main effects of the additive model.

        din and dout stand for the placement where placements are all that was tried and both can be tested; else the
        placement is one factor, as in few placements one of the two determines the other.
        """
        both = {"din", "dout"} <= set(self.factors)
        if "placement" not in self.factors or not both or not (self.is_of_placements and self._parts_can_be_told):
            apart = ("din", "dout") if "placement" in self.factors else ()
            return [f for f in self.factors if f not in apart]
        return [f for f in self.factors if f != "placement"]

    @property
    def _parts_can_be_told(self) -> bool:
        from analysis.variance.table import anova

        runs = self.modelled
        if runs["din"].nunique() < 2 or runs["dout"].nunique() < 2:
            return False
        return bool((anova(runs, self.metric, ["din", "dout"], units=False).loc[["din", "dout"], "df"] > 0).all())

    @cached_property
    def model_terms(self) -> list[str]:
        """Terms of the joint model: those asked for, or the main effects and the pairs found to act together."""
        from analysis.conclusions.joint import default_terms

        if self.model:
            return self.model
        runs = self.modelled
        terms = [f for f in self.terms if runs[f].nunique() > 1]
        if len(terms) < 2 or self.is_of_placements:
            return terms
        return default_terms(runs, self.metric, terms, self.block)

    @property
    def modelled(self) -> pd.DataFrame:
        """The runs that have a level of every factor: full tuning, say, has no placement and is a reference only."""
        return self.done.dropna(subset=self.factors)

    @property
    def references(self) -> list[str]:
        """Designs that are shown but in no test of a factor."""
        beside = self.done.index.difference(self.modelled.index)
        return [self.label(d) for d in self.done.loc[beside, self.design].unique()] if len(beside) else []

    def label(self, design: object) -> str:
        """A design's name for people."""
        return ", ".join(level_words("placement", part) for part in str(design).split(", "))

    def mean_anchor(self, end: str, metric: str | None = None) -> float:
        """Mean of the runs' own floor or ceiling; NaN where none is recorded."""
        column = f"{metric or self.metric}_{end}"
        known = column in self.done and self.done[column].notna().any()
        return float(self.done[column].mean()) if known else float("nan")

    def anchors_of(self, end: str) -> dict[Any, float]:
        """For each design the mean floor or ceiling of its runs; empty where none is recorded."""
        column = f"{self.metric}_{end}"
        return dict(self.done.groupby(self.design)[column].mean()) if column in self.done else {}

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """record.json of every run with the scores asked for, by run_id; empty for a CSV."""
        found: dict[str, dict[str, Any]] = {}
        if {"path", "run_id"} <= set(self.runs):
            for path, run_id in zip(self.runs["path"], self.runs["run_id"], strict=True):
                try:
                    record = with_scores(read_record(Path(str(path)) / "record.json"), self.scores)
                except (OSError, ValueError):  # a path of a table, or a record that was removed meanwhile
                    continue
                found.update({str(run_id): record} if record else {})
        return found

    @cached_property
    def _record_at(self) -> dict[str, dict[str, Any]]:
        """Records by the path of their run."""
        if "path" not in self.runs or "run_id" not in self.runs:
            return {}
        pairs = zip(self.runs["path"], self.runs["run_id"], strict=True)
        return {str(path): self.records[str(run_id)] for path, run_id in pairs if str(run_id) in self.records}

    def images_of(self, path: object) -> Path:
        """The folder of the images that the run at this path was scored by; its noise map lies beside it."""
        return Path(str(path)) / (self._record_at.get(str(path), {}).get("samples") or "samples")

    @cached_property
    def bases(self) -> dict[Any, Path]:
        """For each seed the folder of what the untuned base model drew, where that is known."""
        if "seed" not in self.done or "path" not in self.done:
            return {}
        found: dict[Any, Path] = {}
        for path, seed in zip(self.done["path"], self.done["seed"], strict=True):
            place = self._record_at.get(str(path), {}).get("base", f"base/seed{seed:.0f}")
            if place is not None:
                found[seed] = Path(str(path)).parent / place
        return found


def read_study(
    source: str | Path,
    metric: str | None = None,
    factors: Sequence[str] | None = None,
    model: str | None = None,
    scores: str = FIRST,
    block: str | None = None,
    maximize: bool | None = None,
    within: float | None = None,
    family: str = "terms",
) -> Study:
    """Load a study folder or a table and settle score, factors and block: what is given counts, the rest is guessed.

    block: a column that is taken out first, or "none"; maximize: whether the larger score is
    better. ValueError names the choices where a name is unknown.
    """
    path = Path(source)
    # Failed runs have no protocol; only the runs that are compared must have been scored alike.
    runs = load_results(source, status=None, mixed_protocols="flag", scores=scores)
    asked = Asked(metric, tuple(factors or ()), model, block, maximize)
    asked, registration, doubts = as_registered(asked, path, runs)
    race, runs = raced(path, runs)
    if race is not None and asked.metric is None and asked.model is None:
        asked = replace(asked, metric=race.stored.score, maximize=race.stored.maximize)
    choices = choose(runs, asked, path.name)
    runs, notes = choices.frame, [str(note) for note in runs.attrs.get("notes", []) if "protocol_hash" not in note]
    notes = _merged(notes)
    done, left_out = runs_to_compare(runs, choices.metric, choices.block)
    if len(done):
        done = load_results(done, status=None)
    done.attrs = dict(runs.attrs)
    chosen = choices.factors or [f for f in _own(done) if f != choices.block]
    choices = choices.settled(done, chosen)
    done.attrs |= {"roles": choices.roles, "block": choices.block}
    notes = (race.notes if race else []) + left_out + choices.notes + doubts + notes
    done, design = _with_design(done, chosen)
    done, blocked, aside = _blocked(done, design, chosen, choices.metrics)
    choices = replace(choices, said=said_of_block(choices, done, blocked))
    name = str(runs["study"].iloc[0]) if is_of_records(runs) and runs["study"].nunique() == 1 else path.stem
    study = Study(
        name, path, runs, done, choices.metric, choices.metrics, chosen, design, notes, choices.terms, scores, choices,
        blocked, within, aside, registration, _fresh(path, scores), race,
    )  # fmt: skip
    upward = higher_is_better(study.metric) if asked.maximize is None else asked.maximize
    if registration is not None:
        with test_family(family, len(study.metrics)):
            terms = study.model_terms if len(done) > 1 else []
        study.notes.append(registered_note(registration, study.metric, upward, chosen, terms, runs))
    elif path.is_dir() and is_of_records(runs):
        study.choices = replace(choices, said=f"{choices.said} No question was registered before these runs.")
    if race is None and path.is_dir() and is_of_records(runs) and len(done):
        study.notes[:0] = filter(None, [looks_note(looked(path, done["run_id"].astype(str), "report"))])
    if family == "none":
        study.notes.append(
            "No p value is adjusted for the number of tests (--family none): the more terms are tested, the more of "
            "them are found by chance."
        )
    elif family == "scores" and len(study.metrics) > 1:
        study.notes.append(
            f"Claims are adjusted over the terms and, by Bonferroni, over the {len(study.metrics)} scores "
            "(--family scores)."
        )
    return study


def _merged(notes: Sequence[str]) -> list[str]:
    """Notes that say the same of several columns as one."""
    ends = (" is read with decimal commas.", " is read in percent.")
    merged: list[str] = []
    for note in notes:
        end = next((e for e in ends if note.endswith(e)), None)
        names = [n.removesuffix(end) for n in notes if n.endswith(end)] if end else []
        if len(names) > 2 and end:
            note = f"{len(names)} columns, {names[0]} to {names[-1]}, are{end.removeprefix(' is')}"
        if note not in merged:
            merged.append(note)
    return merged


def _fresh(folder: Path, scores: str) -> pd.DataFrame | None:
    """The finished runs that confirm the best on fresh seeds."""
    if not folder.is_dir() or not confirming(folder):
        return None
    try:
        return load_results(folder, scores=scores, confirm=True)
    except ValueError:  # none has ended
        return None


def _blocked(
    done: pd.DataFrame, design: str, factors: Sequence[str], scores: Sequence[str]
) -> tuple[pd.DataFrame, str | None, str]:
    """The runs to test with their units, the block, and what was set aside; the conclusion says what the units are."""
    if design not in done or not len(done):
        return done, None, ""
    attrs = done.attrs
    done, _ = with_units(done, [f for f in factors if f != "seed"] or [design], scores)
    done.attrs = attrs
    blocking = block_of(done, design) if attrs.get("block") not in factors else Blocking(done, None)
    frame = blocking.frame.copy()
    frame.attrs = attrs
    return frame, blocking.block, blocking.said


def _own(done: pd.DataFrame) -> list[str]:
    """All factors that vary and are not merely derived from placement or method (a matched width)."""
    kept = own_factors(done)
    if "placement" not in kept:
        return kept
    positions = [f for f in factor_columns(done) if f in ("din", "dout")]
    return [f for f in factor_columns(done) if f in (*kept, *positions)]


def _with_design(done: pd.DataFrame, factors: list[str]) -> tuple[pd.DataFrame, str]:
    """The runs with a column that tells designs apart, and its name; the placement alone where nothing else varies."""
    parts = [f for f in factors if f not in ("din", "dout", "seed")]
    ours = is_of_records(done) or "placement" in done  # method is full tuning, LoRA or an adapter
    if parts == ["placement"] or (not parts and "placement" in done):
        if not done["placement"].isna().any() or "method" not in done:
            return done, "placement"
        done[DESIGN] = done["placement"].fillna(done["method"])
        return done, DESIGN
    if not parts:
        parts = [f for f in factors if f != "seed"]

    def describe(row: pd.Series) -> str:
        if ours and row.get("method", "adapter") not in ("adapter", None) and pd.isna(row.get("placement")):
            return str(row["method"])
        words = [
            level_words(f, row[f]) if f in ("placement", "din", "dout", "activation", "init", "method")
            else f"{factor_words(f).split(' (')[0]} {level_words(f, row[f])}"
            for f in parts
            if pd.notna(row[f]) and not (ours and f == "method")
        ]  # fmt: skip
        if ours and "method" in parts and "placement" not in parts:  # an adapter among other methods
            words.insert(0, str(row.get("placement") or row["method"]))
        return ", ".join(words)

    done[DESIGN] = done.apply(describe, axis=1) if len(done) else pd.Series(dtype=str)
    return done, DESIGN
