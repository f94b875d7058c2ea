"""The score that a sweep is about: the names that the scores of its runs can have, known before any run."""

from __future__ import annotations

from sdpet.choices import DISTANCE_METRICS
from sdpet.config import RunConfig
from sdpet.files.terminal import did_you_mean
from sdpet.runs.setup import score_prefix, wanted_scorers
from sdpet.study.options import SweepOptions
from sdpet.study.plan import Plan


def check_score(plan: Plan, options: SweepOptions) -> None:
    """Refuse hydra.sweeper.metric if no run of the sweep can have it.

    Raises
    ------
    ValueError
        One sentence with the scores that there can be.
    """
    if options.metric is None:
        return
    known: dict[str, None] = {}
    for config in {job.config.cell: job.config for job in plan.jobs}.values():
        names = possible_scores(config)
        if names is None:
            return
        known |= dict.fromkeys(names)
    if options.metric not in known:
        raise ValueError(
            f"hydra.sweeper.metric must be one of {', '.join(known)}, not "
            f"{options.metric!r}{did_you_mean(options.metric, known)}."
        )


def possible_scores(config: RunConfig) -> list[str] | None:
    """The names of the scores that a run can have.

    Parameters
    ----------
    config : RunConfig
        The run.

    Returns
    -------
    list of str or None
        Also of scorers that may turn out not to be available. None for a task of the user's own, which names its scores
        itself.
    """
    if config.task.target is not None:
        return None
    networks = [score_prefix(key) for key in wanted_scorers(config)]
    similar = [name for name in networks if name not in ("clip", "features", "diversity")]
    if config.task.name == "dreambooth":
        diversity = ["lpips_diversity"] if "diversity" in networks else []
        return ["clip_i", "clip_t", "prior_drift", *(f"{n}_i" for n in similar), *diversity, "noise_difference"]
    found = []
    others = ["clip", *similar] if "features" in networks else similar
    for kind in config.eval.plan.get("distances", ()):
        names = [kind, *(f"{name}_fid" for name in others)] if kind == "fid" else [kind]
        found += [metric.format(name=name) for name in names for metric in DISTANCE_METRICS[kind]]
    return [*found, "clip_t", *(f"{name}_right" for name in similar)]
