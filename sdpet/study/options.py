"""The options of a sweep (`hydra.sweeper.KEY=VALUE`), checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sdpet.config.value_rules import boolean, integer, number, optional, string
from sdpet.files.terminal import did_you_mean


@dataclass(frozen=True)
class SweepOptions:
    """The options of a sweep; conf/hydra/sweeper/grid.yaml explains each and has the same defaults."""

    replicates: int | None = None
    order: int | None = 0
    fraction: float | None = None
    runs: int | None = None
    effects: str | None = None
    dry_run: bool = False
    pilot: str | None = None
    retry: bool = True
    until: float | None = None
    race: float | str | None = None
    sds: tuple[float, float] | None = None
    metric: str | None = None
    most: int | None = None
    confirm: int | None = None
    register: bool = False
    maximize: bool | None = None
    alpha: float = 0.05
    looks: int = 1

    @property
    def most_seeds(self) -> int:
        """The largest number of seeds of a design, with a race or with `until`."""
        return self.most if self.most is not None else MOST_OF_A_RACE if self.race is not None else 12

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> SweepOptions:
        """Check options.

        Parameters
        ----------
        given : mapping
            Options by key.

        Returns
        -------
        SweepOptions
            The options in canonical types.

        Raises
        ------
        ValueError
            An option is unknown or invalid, or two contradict each other; the message is one sentence.
        """
        values = {}
        for key, value in given.items():
            if key not in RULES:
                raise ValueError(unknown_option(key))
            try:
                values[key] = RULES[key](value)
            except ValueError as error:
                raise ValueError(f"hydra.sweeper.{key} {error}, not {value!r}.") from None
        options = cls(**values)
        if options.fraction is not None and options.runs is not None:
            raise ValueError("give hydra.sweeper.fraction or hydra.sweeper.runs, not both.")
        if options.until is not None and (options.fraction is not None or options.runs is not None):
            raise ValueError("hydra.sweeper.until adds seeds to whole designs; it does not go with fraction or runs.")
        if options.race is not None and (options.fraction is not None or options.runs is not None):
            raise ValueError("hydra.sweeper.race chooses its runs itself; it does not go with fraction or runs.")
        if options.race is not None and options.until is not None:
            raise ValueError("give hydra.sweeper.race (the best design) or hydra.sweeper.until (precision), not both.")
        return options


def unknown_option(key: str) -> str:
    """The error for an option that does not exist; it lists the valid ones."""
    hint = did_you_mean(key, RULES)
    return f"there is no key hydra.sweeper.{key}{hint}; keys are {', '.join(RULES)}, fleet_size and params."


def margin(value: Any) -> float | str:
    """A difference of scores above 0, or a share of floor to ceiling such as 3%."""
    text = value.strip() if isinstance(value, str) else ""
    if text.endswith("%"):
        try:
            share = float(text[:-1])
        except ValueError:
            share = 0.0
        if 0 < share < 100:
            return f"{share:g}%"
    elif not isinstance(value, str):
        try:
            return float(number(0, above=True)(value))
        except ValueError:
            pass
    raise ValueError("must be a difference of scores above 0, such as 0.03, or a share of floor to ceiling, such as 3%")


def two_sds(value: Any) -> tuple[float, float]:
    """The standard deviations of designs' means and of a run, as [0.1,0.03]."""
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    try:
        between, run = (number(0)(part) for part in parts)
    except ValueError:
        between, run = 0.0, 0.0
    if not run > 0:
        raise ValueError("must be two numbers, the SDs of designs' means and of a run, such as [0.1,0.03]")
    return between, run


MOST_OF_A_RACE = 48  # seeds, as the last look of a race

RULES: dict[str, Callable[[Any], Any]] = {
    "replicates": optional(integer(1)),
    "order": optional(integer(0)),
    "fraction": optional(number(0, 1, above=True)),
    "runs": optional(integer(1)),
    "effects": optional(string),
    "dry_run": boolean,
    "pilot": optional(string),
    "retry": boolean,
    "until": optional(number(0, above=True)),
    "race": optional(margin),
    "sds": optional(two_sds),
    "metric": optional(string),
    "most": optional(integer(2)),
    "confirm": optional(integer(0)),
    "register": boolean,
    "maximize": optional(boolean),
    "alpha": number(0, 0.5, above=True),
    "looks": integer(1),
}
assert set(RULES) == {field.name for field in fields(SweepOptions)}
