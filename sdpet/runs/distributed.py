"""One run trained by several processes (trainer.devices, trainer.num_nodes): ranks, process start-up and rendezvous.

The process that holds the run's lock is rank 0. It alone samples, scores, logs and writes; the other ranks only train.
Rank 0 starts them as `python -m sdpet.runs.distributed`, each for one run. So the runs of a study never share a process
group, and no other rank parses a command line. If srun or torchrun has started all processes, rank 0 sends each run to
the other ranks through a TCPStore (`RunDispatcher`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sdpet
from sdpet.config import RunConfig
from sdpet.training.rank import Rank

STORE_TIMEOUT = timedelta(days=365)  # ranks wait for the next run; there is no limit on the length of a run
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # within which srun or torchrun must have started all processes
EXIT_SECONDS = 60.0  # within which the other ranks must exit by themselves
READY = b"ready"


def external_rank(config: RunConfig) -> Rank | None:
    """The rank of this process, if srun or torchrun has started one process per device.

    Parameters
    ----------
    config : RunConfig
        Its trainer.devices and trainer.num_nodes give the number of processes.

    Returns
    -------
    Rank or None
        None if the run has one process, or if rank 0 has to start the others.

    Raises
    ------
    ValueError
        The number of processes differs from the config, or several machines are asked for without srun or torchrun.
    """
    world, env = config.trainer.world_size, os.environ
    rank: Rank | None = None
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if world == 1:
        return None
    if "TORCHELASTIC_RUN_ID" in env:
        address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        if port == 0:  # torchrun passes --master-port=0 on unchanged
            raise ValueError(
                "MASTER_PORT is 0, which is no usable port; start the processes with torchrun --standalone."
            )
        rank = Rank(int(env["RANK"]), int(env["LOCAL_RANK"]), devices, nodes, address, port)
        given = int(env["WORLD_SIZE"])
    elif "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        address = env.get("MASTER_ADDR") or slurm.resolve_root_node_address(env["SLURM_NODELIST"])
        port = slurm.main_port
        rank = Rank(int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), devices, nodes, address, port)
        given = int(env["SLURM_NTASKS"])
    if rank is None and nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={nodes} needs one process a device on every machine; start them with srun, "
            f"torchrun or hydra/launcher=submitit_slurm (nodes={nodes}, tasks_per_node={devices})."
        )
    if rank is not None and given != world:
        raise ValueError(f"{given} processes were started, but trainer.devices x trainer.num_nodes is {world}.")
    return rank if rank is None or config.trainer.device == "cpu" else alone_on_its_gpu(rank)


def alone_on_its_gpu(rank: Rank) -> Rank:
    """The rank as Lightning must see it, if each process has a GPU that the others do not see.

    With ``srun --gpus-per-task=1`` the GPU of every process is cuda:0, whatever its rank on the machine.

    Parameters
    ----------
    rank : Rank

    Returns
    -------
    Rank
        As on a machine of its own; unchanged where the process sees the GPUs of all ranks on its machine.
    """
    import torch

    if rank.per_node == 1 or torch.cuda.device_count() != 1:
        return rank
    return replace(rank, local=0, per_node=1, nodes=rank.world)


@contextmanager
def rank_group(config: RunConfig, folder: Path) -> Iterator[Rank | None]:
    """Start (or signal) the other ranks for this run and yield rank 0; yields None for single-process runs.

    Raises RuntimeError if another rank has died, in place of the error that this caused in rank 0.
    """
    world = config.trainer.world_size
    if world == 1:
        yield None
        return
    rank = external_rank(config)
    if rank is not None:
        rank = replace(rank, port=_free_port())
        dispatcher(config).broadcast(
            {"config": dict(config.values), "folder": str(folder.absolute()), "port": rank.port}
        )
        yield rank
        return
    rank = Rank(0, 0, world, 1, "127.0.0.1", _free_port())
    others = [_start(config, folder, replace(rank, rank=i, local=i)) for i in range(1, world)]
    try:
        for other in others:
            _wait_until_ready(other)
        yield rank
        for other in others:
            other.wait(EXIT_SECONDS)
    except Exception as error:
        died = [i for i, other in enumerate(others, 1) if _status(other) not in (None, 0)]
        if died:
            raise RuntimeError(f"process {died[0]} of {world} ended with status {_status(others[died[0] - 1])}; "
                               f"its error is above.") from error  # fmt: skip
        raise
    finally:
        for other in others:
            other.kill()
            other.wait()
            assert other.stdin is not None and other.stdout is not None
            other.stdout.close()
            with suppress(BrokenPipeError):
                other.stdin.close()


def _start(config: RunConfig, folder: Path, rank: Rank) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, [str(Path(sdpet.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "sdpet.runs.distributed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # only rank 0 receives Ctrl-C
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None
    request = {"config": dict(config.values), "folder": str(folder.absolute()), "rank": asdict(rank)}
    with suppress(BrokenPipeError):  # a process that died is reported by _wait_until_ready
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    return process


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until a rank has loaded its model; the process group itself would notice a missing rank only much later."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == READY:
            return
    raise RuntimeError("a worker rank exited before it joined the process group; its error is above.")


def _status(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status, after a short wait for a process that is about to exit; None if it is still running."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
    return process.returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class RunDispatcher:
    """Sends runs, one at a time, from rank 0 to the other ranks that srun or torchrun has started."""

    def __init__(self, rank: Rank) -> None:
        from torch.distributed import TCPStore

        self.rank, self._next = rank, 0
        has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves one at this port
        leads = rank.rank == 0 and not has_store
        try:
            self._store = TCPStore(rank.address, rank.port, None, leads, RENDEZVOUS_TIMEOUT, wait_for_workers=False)
        except RuntimeError as error:
            raise ValueError(
                f"process {rank.rank} of {rank.world} cannot reach the first one at {rank.address}:{rank.port}."
            ) from error
        self._store.set_timeout(STORE_TIMEOUT)

    def broadcast(self, request: dict[str, Any]) -> None:
        """Send a run to all other ranks; an empty request shuts them down."""
        self._store.set(f"sdpet/{self._next}", json.dumps(request))
        self._next += 1

    def serve(self) -> None:
        """Train the runs that rank 0 sends, until it sends an empty request (shutdown)."""
        while True:
            request = json.loads(self._store.get(f"sdpet/{self._next}"))  # blocks until rank 0 has set it
            self._next += 1
            if not request:
                return
            config, folder = RunConfig(request["config"]), Path(request["folder"])
            train_as_worker_rank(config, folder, replace(self.rank, port=request["port"]))


_DISPATCHER: list[RunDispatcher] = []  # one per process, kept until the process exits


def dispatcher(config: RunConfig) -> RunDispatcher:
    """The dispatcher of this process, which srun or torchrun must have started."""
    if not _DISPATCHER:
        rank = external_rank(config)
        assert rank is not None
        _DISPATCHER.append(RunDispatcher(rank))
    return _DISPATCHER[0]


def train_as_worker_rank(config: RunConfig, folder: Path, rank: Rank, ready: Callable[[], Any] = lambda: None) -> None:
    """Train as a rank other than 0. The weights are equal on all ranks, and rank 0 saves them.

    Parameters
    ----------
    config : RunConfig
        The run.
    folder : Path
        Its folder; a checkpoint beside it is resumed.
    rank : Rank
        The rank of this process.
    ready : callable
        Called without arguments when model and data are loaded.
    """
    import torch

    from sdpet.methods import build
    from sdpet.runs.checkpoint import read_checkpoint
    from sdpet.runs.libraries import quiet_libraries, torch_threads
    from sdpet.runs.setup import Resources, make_design, make_lightning_parts, make_train_config
    from sdpet.training import Member, fit_together

    if config.trainer.device == "cuda":
        config = config.changed(trainer={"device": f"cuda:{rank.local}"})
        torch.cuda.set_device(rank.local)
    resources = Resources()
    with quiet_libraries(), torch_threads(config.trainer.threads), ExitStack() as stack:
        base, task = resources.base(config), resources.task(config)
        handle = build(base, make_design(config, base), config.seed)
        stack.callback(handle.detach)
        member = Member(handle, config.seed, make_train_config(config), None, read_checkpoint(folder))
        ready()
        fit_together(base, [member], task, rank=rank, lightning=make_lightning_parts(config, folder))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Train one run as a rank that rank 0 has started; read the run from standard input as one JSON line."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    train_as_worker_rank(
        RunConfig(request["config"]),
        Path(request["folder"]),
        Rank(**request["rank"]),
        lambda: print(READY.decode(), flush=True),
    )


if __name__ == "__main__":
    main()
