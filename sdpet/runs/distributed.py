"""One run trained by several processes (trainer.devices, trainer.num_nodes): who they are and how they find together.

The process that has claimed the run is rank 0: it alone draws, scores, logs and writes. The others only train along.
It starts them itself, as `python -m sdpet.runs.distributed`, each for one run; so runs of a multirun never share a
process group, and no rank reads a command line. Where srun or torchrun has started all processes, rank 0 tells the
others of every run through a TCPStore (`Orders`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sdpet
from sdpet.training.rank import Rank

FOR_EVER = timedelta(days=365)
MEETING = timedelta(minutes=10)  # for all processes of srun or torchrun to have begun
PATIENCE = 60.0  # seconds the others have to end by themselves
READY = b"ready"


def count(config: Mapping[str, Any]) -> int:
    """How many processes train a run of this (validated) config."""
    trainer = config["trainer"]
    return trainer.get("devices", 1) * trainer.get("num_nodes", 1)  # configs stored by older versions lack them


def started_as(config: Mapping[str, Any]) -> Rank | None:
    """Our place where srun or torchrun has started one process a device; None where they are ours to start.

    Raises ValueError when the config asks for several machines and nobody has started processes there.
    """
    world, env = count(config), os.environ
    rank: Rank | None = None
    devices, nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if world == 1:
        return None
    if "TORCHELASTIC_RUN_ID" in env:
        address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        if port == 0:  # what torchrun hands on of --master-port=0
            raise ValueError("MASTER_PORT is 0, where processes cannot meet; start them with torchrun --standalone.")
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
    return rank


@contextmanager
def company(config: Mapping[str, Any], folder: Path) -> Iterator[Rank | None]:
    """Rank 0's place, with the others training along on the run of `folder`; None for a run of one process.

    Raises RuntimeError, instead of what broke here, when one of the others has died.
    """
    world = count(config)
    if world == 1:
        yield None
        return
    ours = started_as(config)
    if ours is not None:
        ours = replace(ours, port=_free_port())
        orders(config).give({"config": dict(config), "folder": str(folder.absolute()), "port": ours.port})
        yield ours
        return
    ours = Rank(0, 0, world, 1, "127.0.0.1", _free_port())
    others = [_start(config, folder, replace(ours, rank=i, local=i)) for i in range(1, world)]
    try:
        for other in others:
            _wait_until_ready(other)
        yield ours
        for other in others:
            other.wait(PATIENCE)
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


def _start(config: Mapping[str, Any], folder: Path, rank: Rank) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, [str(Path(sdpet.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "sdpet.runs.distributed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C goes to rank 0 alone
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None
    order = {"config": config, "folder": str(folder.absolute()), "rank": asdict(rank)}
    with suppress(BrokenPipeError):  # if it died, the process group will not come about, and that is told
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    return process


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """It has loaded its model and will join the process group: there, one that is missing would be waited for long."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == READY:
            return
    raise RuntimeError("a process that was to train along has ended.")


def _status(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status, with a moment for a process that is just dying."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
    return process.returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Orders:
    """What rank 0 wants of the processes that srun or torchrun has started beside it: one run after another."""

    def __init__(self, rank: Rank) -> None:
        from torch.distributed import TCPStore

        self.rank, self._next = rank, 0
        has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves one at this port
        leads = rank.rank == 0 and not has_store
        try:
            self._store = TCPStore(rank.address, rank.port, None, leads, MEETING, wait_for_workers=False)
        except RuntimeError as error:
            raise ValueError(
                f"process {rank.rank} of {rank.world} cannot reach the first one at {rank.address}:{rank.port}."
            ) from error
        self._store.set_timeout(FOR_EVER)  # a run takes as long as it takes

    def give(self, order: dict[str, Any]) -> None:
        self._store.set(f"sdpet/{self._next}", json.dumps(order))
        self._next += 1

    def follow(self) -> None:
        """Train along on one run after another, until rank 0 gives leave."""
        while True:
            order = json.loads(self._store.get(f"sdpet/{self._next}"))  # waits until it is there
            self._next += 1
            if not order:
                return
            train_along(order["config"], Path(order["folder"]), replace(self.rank, port=order["port"]))


_ORDERS: list[Orders] = []  # one a process, for the whole of its life


def orders(config: Mapping[str, Any]) -> Orders:
    if not _ORDERS:
        rank = started_as(config)
        assert rank is not None
        _ORDERS.append(Orders(rank))
    return _ORDERS[0]


def train_along(config: dict[str, Any], folder: Path, rank: Rank, ready: Callable[[], Any] = lambda: None) -> None:
    """Do the part of a rank other than 0 in the training of a run; what comes out is rank 0's to keep.

    ready(): called when all is loaded.
    """
    from sdpet.runs.checkpoint import read_checkpoint
    from sdpet.runs.setup import Stage, design_of, hush, options_of

    hush()
    import torch

    from sdpet.methods import build
    from sdpet.training.module import Member
    from sdpet.training.trainer import fit_together

    torch.set_num_threads(config["trainer"]["threads"])
    if config["trainer"]["device"] == "cuda":
        config = {**config, "trainer": {**config["trainer"], "device": f"cuda:{rank.local}"}}
        torch.cuda.set_device(rank.local)
    stage = Stage()
    base, task = stage.base(config), stage.task(config)
    with ExitStack() as stack:
        handle = build(base, design_of(config, base), config["seed"])
        stack.callback(handle.detach)
        member = Member(handle, config["seed"], options_of(config), None, read_checkpoint(folder))
        ready()
        fit_together(base, [member], task, rank=rank)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    train_along(
        order["config"], Path(order["folder"]), Rank(**order["rank"]), lambda: print(READY.decode(), flush=True)
    )


if __name__ == "__main__":
    main()
