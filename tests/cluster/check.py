"""Studies on a real Slurm and a real Ray of this one machine, with a worker killed in the middle: `make test-cluster`.

    python tests/cluster/check.py [slurm] [ray]

For each: sets the cluster up, runs a small study through hydra/launcher=submitit_slurm or ray, kills a node that is
training, and checks that every run is there once and bit for bit what this machine alone gives. On Slurm, one run is
also trained by two nodes together, by srun and as a job of a study, and compared with what one process gives. Slurm
needs root and `apt-get install slurm-wlm munge`; it gets a folder, ports and daemons of its own and is taken down
again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
STUDY = ("-m", "+sweeps=smoke", "seed=0,1", "trainer.steps=60", "checkpoint_seconds=0", "hydra.sweeper.fleet_size=2")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # on a busy machine they would hardly get any time
}


def study(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *STUDY, f"output_root={out}", *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(out: Path) -> dict[str, tuple[bytes, dict, bytes]]:
    """Of every run by run_id: trained weights, scores and loss, and samples."""
    found = {}
    for record in sorted(out.glob("smoke/*/record.json")):
        content, folder = json.loads(record.read_text()), record.parent
        weights = b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))
        samples = b"".join(file.read_bytes() for file in sorted(folder.glob("samples/*")))
        found[folder.name] = weights, {key: content[key] for key in ("status", "metrics", "loss", "factors")}, samples
    return found


def check(name: str, out: Path, expected: dict, kill: Callable[[], str], *launcher: str) -> None:
    """Run the study on the cluster, kill once a run has a checkpoint, and compare with `expected`."""
    started = time.monotonic()
    process = study(out, *launcher)
    begun = wait_until(lambda: process.poll() is not None or list(out.glob("smoke/.checkpoints/*.pt")), 300)
    if not begun or process.poll() is not None:
        process.kill()
        fail(name, f"no run has begun:\n{process.communicate()[0]}\n{logs(out.parent)}")
    print(f"{name}: killing {kill()}", flush=True)
    try:
        said = process.communicate(timeout=600)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        fail(name, f"it did not end:\n{process.communicate()[0]}")
    print("".join(f"  {line}\n" for line in said.splitlines()), end="")
    if process.returncode != 0:
        fail(name, f"exit status {process.returncode}")
    found = results(out)
    if found != expected:
        differing = [run for run in expected if found.get(run) != expected[run]]
        fail(name, f"{len(found)} runs instead of {len(expected)}, different: {', '.join(differing)}")
    left = [path.name for place in (".claims", ".checkpoints", ".fleets") for path in out.glob(f"smoke/{place}/*")]
    if left:
        fail(name, f"left over: {', '.join(left)}")
    print(
        f"{name}: {len(found)} runs, each there once and bit for bit the local one; {time.monotonic() - started:.0f} s"
    )


def check_two_nodes(root: Path) -> None:
    """One run on two nodes of Slurm, started by srun, and as a job of a study, against one process."""
    from safetensors.numpy import load_file

    shared = [
        "trainer=ddp",
        "trainer.device=cpu",
        "unet.dtype=float32",
        "trainer.precision=32-true",
        "trainer.devices=1",
    ]
    shared += ["trainer.steps=20", "sampler.steps=3", "eval.subject_images=2", "quiet=true"]
    train, nodes = [sys.executable, str(ROOT / "train.py")], ["trainer.num_nodes=2"]
    job = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", "hydra.launcher.cpus_per_task=1",
           "hydra.launcher.mem_gb=null", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1"]  # fmt: skip
    ways = {
        "alone": [*train, *shared],
        "srun": ["srun", "--nodes=2", "--ntasks-per-node=1", *train, *shared, *nodes],
        "job": [*train, *job, *shared, *nodes],
    }
    # Its nodes have no names of their own here; on a cluster the address is that of the first one.
    environment = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1"}
    found = {}
    for way, command in ways.items():
        command = [*command, f"output_root={root}", f"study={way}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        folders = [path.parent for path in root.glob(f"{way}/*/record.json")]
        if done.returncode or len(folders) != 1:
            fail(way, f"exit status {done.returncode}, {len(folders)} runs:\n{done.stdout}{done.stderr}{logs(root)}")
        found[way] = load_file(folders[0] / "adapters.safetensors")
    for way in ("srun", "job"):
        apart = max(abs(found[way][name] - value).max() for name, value in found["alone"].items())
        if not apart < 1e-4:
            fail(way, f"weights differ by {apart:.1e} from one process's")
        print(f"slurm: one run on two nodes ({way}) gives the adapters of one process within {apart:.1e}", flush=True)


def logs(folder: Path) -> str:
    """The ends of what the cluster's jobs and daemons have written."""
    files = [file for end in (".out", ".err", ".log") for file in folder.rglob(f"*{end}") if file.stat().st_size]
    return "".join(f"--- {file}\n{file.read_text(errors='replace')[-1500:]}\n" for file in files)


def fail(name: str, text: str) -> None:
    sys.exit(f"{name}: {text}")


def wait_until(holds: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


class Slurm:
    """slurmctld and several slurmd on this machine, each with a port of its own, under one folder."""

    NODES = 3

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, dict[str, subprocess.Popen[bytes]]()
        self.conf = folder / "slurm.conf"

    def start(self) -> None:
        if shutil.which("slurmctld") is None:
            fail("slurm", "not installed; apt-get install slurm-wlm munge")
        if os.geteuid() != 0:
            fail("slurm", "its daemons need root here")
        self._start_munge()
        host = socket.gethostname().split(".")[0]
        ports = free_ports(self.NODES + 1)
        nodes = "".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=2 RealMemory=4000\n"
            for i in range(1, self.NODES + 1)
        )
        for name in ("state", *(f"spool-n{i}" for i in range(1, self.NODES + 1))):
            (self.folder / name).mkdir()
        self.conf.write_text(
            f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ports[0]}\nSlurmUser=root\n"
            f"AuthType=auth/munge\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
            f"SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\n"
            f"AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
            f"StateSaveLocation={self.folder}/state\nSlurmdSpoolDir={self.folder}/spool-%n\n"
            f"SlurmctldPidFile={self.folder}/ctld.pid\nSlurmdPidFile={self.folder}/%n.pid\n"
            f"SlurmctldLogFile={self.folder}/ctld.log\nSlurmdLogFile={self.folder}/%n.log\n"
            f"SlurmdTimeout=10\nReturnToService=2\nMpiDefault=none\nJobRequeue=1\nKillWait=2\nMinJobAge=3600\n"
            f"{nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        )
        ENVIRONMENT["SLURM_CONF"] = str(self.conf)
        self._start("slurmctld", "-D", "-f", str(self.conf))
        for i in range(1, self.NODES + 1):
            self._start("slurmd", "-D", "-f", str(self.conf), "-N", f"n{i}")
        if not wait_until(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(self.NODES), 60):
            fail("slurm", f"the nodes did not come up:\n{self.ask('sinfo')}")
        print(self.ask("sinfo", "-N"), end="", flush=True)

    def _start_munge(self) -> None:
        if not subprocess.run(["munge", "-n"], capture_output=True).returncode:
            return
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)

    def _start(self, *command: str) -> None:
        name = command[-1] if "-N" in command else command[0]
        log = (self.folder / f"{name}.out").open("wb")
        self.daemons[name] = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True).stdout

    def kill_a_node(self) -> str:
        """kill -9 for a job and the daemon of the node it runs on; the node comes back a little later."""
        job, node = next(
            line.split() for line in self.ask("squeue", "-h", "-t", "R", "-o", "%A %N").splitlines() if line.strip()
        )
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in psutil.process_iter(["environ"]):
            environ = process.info["environ"] or {}
            if environ.get("SLURM_JOB_ID") == job or environ.get("SLURM_JOBID") == job:
                process.kill()
        for process in psutil.process_iter(["cmdline"]):
            if "slurmstepd" in " ".join(process.info["cmdline"] or []) and f"[{job}." in " ".join(process.cmdline()):
                process.kill()
        self._start("slurmd", "-D", "-f", str(self.conf), "-N", node)
        return f"job {job} and its node {node}"

    def stop(self) -> None:
        self.ask("scancel", "--user=root")
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


class Ray:
    """A head and a second node, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, list[subprocess.Popen[bytes]]()
        (self.port,) = free_ports(1)

    def start(self) -> None:
        self._node("--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false")
        self._node(f"--address=127.0.0.1:{self.port}")
        ENVIRONMENT["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"
        ask = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"

        def both_there() -> bool:
            asked = subprocess.run([sys.executable, "-c", ask], env=ENVIRONMENT, capture_output=True, text=True)
            return asked.stdout.strip().endswith("2")

        if not wait_until(both_there, 120):
            fail("ray", "the nodes did not come up")

    def _node(self, *options: str) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1", *options]
        log = (self.folder / f"node{len(self.nodes)}.out").open("wb")
        node = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)
        self.nodes.append(node)
        time.sleep(5)

    def kill_a_node(self) -> str:
        """kill -9 for the second node: its raylet and all its workers."""
        tree = psutil.Process(self.nodes[1].pid).children(recursive=True)
        for process in tree:
            if process.is_running():
                process.kill()
        return f"the second node, {len(tree)} processes"

    def stop(self) -> None:
        for node in self.nodes:
            if node.poll() is None:
                for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                    if process.is_running():
                        process.kill()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="sdpet-cluster-") as name:
        folder = Path(name)
        local = study(folder / "local", "hydra/launcher=fleet", "hydra.launcher.size=2", "hydra.launcher.workers=1")
        said = local.communicate()[0]
        if local.returncode:
            fail("local", said)
        expected = results(folder / "local")
        for name, cluster, options in (
            ("slurm", Slurm, ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=main",
                              "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null")),
            ("ray", Ray, ("hydra/launcher=ray",)),
        ):  # fmt: skip
            if name not in names:
                continue
            place = folder / name
            place.mkdir()
            there = cluster(place)
            try:
                there.start()
                if cluster is Slurm:
                    check_two_nodes(folder / "two-nodes")
                check(name, folder / f"out-{name}", expected, there.kill_a_node, *options)
            finally:
                there.stop()


if __name__ == "__main__":
    main(sys.argv[1:] or ["slurm", "ray"])
