"""One race, the same decisions: through every launcher, and when it is killed and started again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from forked import shared_server
from study_tools import command, environment

from analysis.sequential.stored import FILE

FABRICATED = Path(__file__).parent.parent / "fabricated"  # there, runs end at once
ASKED = (
    "-m", "adapter=attn2o-ffni,ffni-transo,resi-reso,attn1i-ffni", "study=raced", "hydra.sweeper.race=0.03",
    "hydra.sweeper.confirm=1", "hydra.sweeper.fleet_size=3", "quiet=true",
)  # fmt: skip
SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys
place, text = pathlib.Path({place!r}), pathlib.Path(sys.argv[-1]).read_text()
number = 1 + len(list(place.glob("*.sh")))
script = place / f"{{number}}.sh"  # the given one is moved when this ends
script.write_text(text)
for task in range(int(re.search(r"--array=0-(\\d+)", text)[1]) + 1) if "--array" in text else [None]:
    name = str(number) if task is None else f"{{number}}_{{task}}"
    own = {{"SLURM_JOB_ID": str(number), "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1",
           "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}}
    if task is not None:
        own |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
    run = f"echo RUNNING > {{name}}; sh {{script}} > {{name}}.log 2>&1; echo COMPLETED > {{name}}"
    subprocess.Popen(["sh", "-c", run], cwd=place, env={{**os.environ, **own}}, start_new_session=True,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(f"Submitted batch job {{number}}")
"""
SQUEUE = """#!/bin/sh
cd {place} && for log in *.log; do echo "${{log%.log}}|$(cat ${{log%.log}})|here"; done
"""
SRUN = """#!/bin/sh
shift 5  # --unbuffered --output FILE --error FILE
exec "$@"
"""
LAUNCHERS = {
    "fleet": ("hydra.launcher.workers=1", "hydra.launcher.size=3"),
    "local": ("hydra.launcher.workers=1",),
    "joblib": ("hydra.launcher.n_jobs=1",),
    "basic": (),
    "submitit_local": (),
    "submitit_slurm": (),
    "ray": ("hydra.launcher.ray.init.address=null", "+hydra.launcher.ray.init.num_cpus=1"),
}
FAST = ("joblib",)


@pytest.fixture(autouse=True)
def cluster(tmp_path, monkeypatch):
    """Runs that cost nothing, and the commands of a Slurm whose jobs are processes that outlive who asked for them."""
    place = tmp_path / "slurm"
    place.mkdir()
    scripts = {"sbatch": SBATCH, "squeue": SQUEUE, "sacct": "#!/bin/sh\nexit 1\n", "srun": SRUN}
    for name, text in scripts.items():
        (place / "bin").mkdir(exist_ok=True)
        (place / "bin" / name).write_text(text.format(python=sys.executable, place=str(place)))
        (place / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(FABRICATED))


def race(out, name, kill_at=None):
    """Exit status and words of the race's command, which is killed with its process group at so many records."""
    given = (*ASKED, f"output_root={out}", f"hydra/launcher={name}", *LAUNCHERS[name])
    server, said = shared_server(), out.parent / f"{out.name}.txt"
    pid = server.start(command(*given)[1:], environment(), out.parent, said, said)
    if kill_at is not None:
        process = psutil.Process(pid)
        while len(list(out.glob("raced/*/record.json"))) < kill_at and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
    return server.wait(pid), said.read_text()


def decided(out):
    stored = json.loads((out / "raced" / FILE).read_text())
    return {key: value for key, value in stored.items() if key != "before"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the race decides in fleets, undisturbed."""
    out = tmp_path_factory.mktemp("expected") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(FABRICATED))
        status, said = race(out, "fleet")
    assert status == 0, said
    found = decided(out)
    assert len(found["looks"]) > 1 and any(look["out"] for look in found["looks"]), found["looks"]
    return found


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS]
)
def test_a_race_decides_the_same_through_every_launcher_also_when_it_is_killed(expected, tmp_path, name):
    if name == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    out = tmp_path / "out"
    for records in (3, 9):  # of 8 in its first look, and of 2 in its second
        status, said = race(out, name, kill_at=records)
        assert status == -signal.SIGKILL, said
    status, said = race(out, name)
    assert status == 0, said
    assert decided(out) == expected
