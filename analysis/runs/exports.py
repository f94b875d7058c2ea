"""What trackers of experiments write beside factors and scores: times, names, ids, places. None of it is either."""

from __future__ import annotations

import re
from collections.abc import Iterable

# As the tools write them; a plain table may well have a factor called Name or Group, so these count only in an export.
WANDB = frozenset(
    """Name|State|Notes|Created|Runtime|User|Tags|ID|Updated|End Time|Start Time|Hostname|Description|Commit|GitHub|
    Host|Sweep|Group|Job Type|Command|OS|Python version|Git repository|Git state|GPU count|GPU type|CPU count|Heartbeat|
    Run path|Project|Entity|Agent|Creator|Logged At|Duration|Username|Visibility|URL""".replace("\n    ", "").split("|")
)
MLFLOW = frozenset(
    """Start Time|Duration|Run ID|Name|Source Type|Source Name|User|Status|Run Name|run_id|experiment_id|status|
    artifact_uri|start_time|end_time|run_name|run_uuid|lifecycle_stage|user_id|source_name|source_type|source_version|
    entry_point_name|Created|Dataset|Models|Version|Experiment ID""".replace("\n    ", "").split("|")
)
OPTUNA = frozenset("number state datetime_start datetime_complete duration study_name trial_id".split())
RAY = frozenset(
    """trial_id experiment_id experiment_tag date timestamp time_this_iter_s time_total_s time_since_restore pid
    hostname node_ip timesteps_since_restore timesteps_total iterations_since_restore episodes_total warmup_time done
    training_iteration logdir should_checkpoint checkpoint_dir_name""".split()
)
DVC = frozenset("Experiment rev typ Created parent State Executor".split())
AIM = frozenset(
    """run.hash run.name run.creation_time run.created_at run.end_time run.finalized_at run.active run.archived
    run.experiment run.experiment.name run.description run.duration metric.name metric.context""".split()
)
_TOOLS = (WANDB, MLFLOW, OPTUNA, RAY, DVC, AIM)
_FEWEST = 3  # names of a tool by which its export is told

SETTINGS = re.compile(r"(?i)^(params?|hparams?|config|hyperparameters?|parameters)[./_](?=.)")
SCORES = re.compile(r"(?i)^(metrics?|summary|values?)[./_](?=.)")
_INNER = re.compile(
    r"(?i)^(_|tags[./]mlflow\.|sys/|system[./]|monitoring/|gpu\.|hydra[./]|wandb[./]|user_attrs_|system_attrs_)"
)
# Book-keeping under any tool, or none. Words of the whole name, so that optimizer.name is none of them.
_ANYWHERE = frozenset(
    """created created_at updated updated_at start_time end_time started started_at ended_at finished_at timestamp
    datetime date_time run_id run_name run_uuid runid uuid guid trial_id job_id id experiment_id artifact_uri git_sha
    commit commit_hash git_commit hostname host_name pid node_ip logdir log_dir output_dir checkpoint checkpoint_path
    url notes comment comments unnamed_0 row rownames global_step trainer_global_step sys_id
    """.split()
)
_COSTLIKE = frozenset("runtime duration elapsed wall_time walltime time_total_s total_time train_time".split())


def bookkeeping(columns: Iterable[str]) -> set[str]:
    """Which of the columns neither set nor score a run.

    >>> sorted(bookkeeping(["Name", "State", "Created", "Runtime", "optimizer.name", "_step", "val/acc"]))
    ['Created', 'Name', 'Runtime', 'State', '_step']
    >>> bookkeeping(["name", "Group", "acc"])
    set()
    """
    names = [str(c) for c in columns]
    found = {n for n in names if _INNER.match(n) or _words(n) in _ANYWHERE}
    for tool in _TOOLS:
        if len(tool & set(names)) >= _FEWEST:
            found |= tool & set(names)
    exported = is_export(names)
    if exported:
        found |= {n for n in names if _words(n) in _COSTLIKE or n.lower() in ("epoch", "step", "iteration")}
    return found


def is_export(columns: Iterable[str]) -> bool:
    """Whether the columns are those of a tracker's export."""
    names = {str(c) for c in columns}
    inner = {"_runtime", "_timestamp", "_step", "_wandb"} & names
    prefixed = any(re.match(r"(params|metrics)[./]", n) for n in names)
    return bool(inner) or prefixed or any(len(tool & names) >= _FEWEST for tool in _TOOLS)


def is_costlike(column: str) -> bool:
    """Whether a column holds how long a run took: a score only where there is no other."""
    return _words(column) in _COSTLIKE


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
