"""The options of a sweep (`hydra.sweeper.KEY=VALUE`), checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from sdpet.config.schema import boolean, integer, number, optional, string


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
    metric: str | None = None
    most: int = 12

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
        return options


def unknown_option(key: str) -> str:
    """The error for an option that does not exist; it lists the valid ones."""
    near = get_close_matches(key, list(RULES), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no key hydra.sweeper.{key}{hint}; keys are {', '.join(RULES)}, fleet_size and params."


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
    "metric": optional(string),
    "most": integer(2),
}
assert set(RULES) == {field.name for field in fields(SweepOptions)}
