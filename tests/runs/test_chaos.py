"""A study that is killed, starved of disk and robbed of files, and started again, ends as the undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import ForkServer
from safetensors.numpy import load
from study_tools import command, composed, environment, tiny_overrides

from sdpet.commands.errors import sentence
from sdpet.config import run_folder, validate
from sdpet.files import lock as claims
from sdpet.files import run_lock
from sdpet.runs import Record, Resources, run
from sdpet.runs.checkpoint import read_checkpoint, write_checkpoints

SMOKE = (
    "-m",
    "+sweeps=smoke",
    "checkpoint_seconds=0",
    "hydra/launcher=local",
    "quiet=true",
    "hydra.launcher.workers=1",
)
UNLIKE = ("seconds", "peak_memory", "evaluations")  # keys of a record that may differ


class Server(ForkServer):
    """Starts `train.py` quickly, again and again, and kills it."""

    def __init__(self, log: Path) -> None:
        super().__init__(environment())
        self.log = log

    def train(
        self,
        *arguments: str,
        kill_after: float | None = None,
        kill_when: Callable[[], object] | None = None,
        by: int = signal.SIGKILL,
    ) -> int:
        """Exit status of a command that gets a signal after so many seconds, or as soon as something holds, if it still
        runs."""
        pid = self.start(command(*arguments)[1:], environment(), None, self.log, self.log)
        timer = threading.Timer(kill_after or 0, lambda: _send(pid, by))
        if kill_after is not None:
            timer.start()
        over = threading.Event()
        if kill_when is not None:
            threading.Thread(target=_send_when, args=(pid, by, kill_when, over), daemon=True).start()
        status = self.wait(pid)
        over.set()
        timer.cancel()
        return status


def _send(pid: int, sign: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


def _send_when(pid: int, sign: int, holds: Callable[[], object], over: threading.Event) -> None:
    while not over.wait(0.005):
        if holds():
            return _send(pid, sign)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "log.txt")
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(server, tiny_folder, subject_folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    assert server.train(*SMOKE, *tiny_overrides(tiny_folder, subject_folders, out), "seed=0", "trainer.steps=12") == 0
    return contents(out / "smoke"), time.monotonic() - begin


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def overrides(tiny_folder, subject_folders, out):
    return [*tiny_overrides(tiny_folder, subject_folders, out), "seed=0", "trainer.steps=12"]


def contents(study: Path) -> dict[str, dict]:
    """All that the runs of a study have left: records but for times and memory, and every other file byte by byte."""
    found = {}
    for folder in (path for path in study.iterdir() if not path.name.startswith(".")):
        files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        record = json.loads(files.pop("record.json", "{}"))  # none in base/, samples of the untuned model
        record.get("digests", {}).pop("record", None)  # of times as well
        files.pop("config.yaml", None)  # has output_root
        found[folder.name] = {"record": {k: v for k, v in record.items() if k not in UNLIKE}, "files": files}
    return found


def kill_and_restart(server, overrides, out, undisturbed, kills, seed):
    expected, whole = undisturbed
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        left = 1 - len(complete(out / "smoke")) / (len(expected) - 1)  # base/ is not a run
        status = server.train(*SMOKE, *overrides, kill_after=moments.uniform(0.05, 0.7) * whole * left)
        assert status in (0, -signal.SIGKILL), server.log.read_text()
        killed += status != 0
        assert all(record["record"]["status"] == "finished" for record in complete(out / "smoke").values())
        if status == 0:  # it got through: from the beginning, so that there is something to kill
            shutil.rmtree(out)
    assert server.train(*SMOKE, *overrides) == 0, server.log.read_text()
    assert contents(out / "smoke") == expected
    assert not [path for name in (".claims", ".checkpoints") for path in out.glob(f"smoke/{name}/*")]


def complete(study):
    """The complete runs as anyone sees them who looks between the kills: whole records or none."""
    return {path.parent.name: {"record": json.loads(path.read_text())} for path in study.glob("*/record.json")}


def test_killed_at_random_moments_it_ends_with_the_same_records(server, overrides, out, undisturbed):
    kill_and_restart(server, overrides, out, undisturbed, kills=4, seed=0)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(server, tiny_folder, subject_folders, out, tmp_path):
    """The whole smoke study, two seeds and all."""
    given = [[*tiny_overrides(tiny_folder, subject_folders, place), "trainer.steps=25"] for place in (tmp_path, out)]
    begin = time.monotonic()
    assert server.train(*SMOKE, *given[0]) == 0
    undisturbed = contents(tmp_path / "smoke"), time.monotonic() - begin
    kill_and_restart(server, given[1], out, undisturbed, kills=20, seed=1)


@pytest.mark.slow
def test_disturbed_in_other_ways_it_ends_with_the_same_records(server, overrides, out, undisturbed):
    """SIGTERM, a truncated checkpoint, lost and damaged files of finished runs: what is not whole is done again."""
    expected, _ = undisturbed
    study = out / "smoke"

    def amid() -> bool:
        """One run is done, another one under way."""
        done = {path.parent.name for path in study.glob("*/record.json")}
        return done and {path.stem for path in study.glob(".checkpoints/*.pt")} - done

    status = server.train(*SMOKE, *overrides, kill_when=amid, by=signal.SIGTERM)
    assert status == 143
    assert {path.name for path in study.iterdir() if path.name[0] != "."} == {
        "base",
        *complete(study),
    }  # nothing half done
    (checkpoint,) = study.glob(".checkpoints/*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    assert server.train(*SMOKE, *overrides) == 0
    assert contents(study) == expected
    folders = sorted(path.parent for path in study.glob("*/record.json"))
    (folders[0] / "adapters.safetensors").unlink()
    (folders[1] / "record.json").write_bytes((folders[1] / "record.json").read_bytes()[:200])
    assert server.train(*SMOKE, *overrides) == 0
    assert "2 completed" in server.log.read_text().splitlines()[-3]
    assert contents(study) == expected


FLEET = (*(word for word in SMOKE if word != "hydra/launcher=local"), "hydra/launcher=fleet", "hydra.launcher.size=8")
ROUNDING = 1e-4  # what the order of sums in a fleet of another size may change in a weight or a score


def largest_difference(study: Path, expected: dict[str, dict]) -> float:
    """The largest difference of a weight or a score from the undisturbed study; all else must be equal."""
    found, largest = contents(study), 0.0
    assert found.keys() == expected.keys()
    for name, one in found.items():
        ours, theirs = one["record"], expected[name]["record"]
        assert ours.get("status") == theirs.get("status") and ours.get("factors") == theirs.get("factors")
        assert one["files"].keys() == expected[name]["files"].keys()
        for metric, score in ours.get("metrics", {}).items():
            largest = max(largest, abs(score - theirs["metrics"][metric]))
        for file in (file for file in one["files"] if file.endswith(".safetensors")):
            mine, other = (load(content["files"][file]) for content in (one, expected[name]))
            largest = max([largest, *(float(abs(mine[key] - other[key]).max()) for key in other)])
    return largest


def killed_often(server, mode: tuple[str, ...], given: list[list[str]], places: list[Path], kills: int) -> float:
    """Kill a study at random moments, again and again; the largest difference of its end from the undisturbed one."""
    begin = time.monotonic()
    assert server.train(*mode, *given[0]) == 0, server.log.read_text()
    expected, whole = contents(places[0] / "smoke"), time.monotonic() - begin
    moments, killed, largest = random.Random(2), 0, 0.0
    while killed < kills:
        left = 1 - len(complete(places[1] / "smoke")) / (len(expected) - 1)
        status = server.train(*mode, *given[1], kill_after=moments.uniform(0.05, 0.7) * whole * left)
        assert status in (0, -signal.SIGKILL), server.log.read_text()
        killed += status != 0
        if status == 0:  # it got through
            largest = max(largest, largest_difference(places[1] / "smoke", expected))
            shutil.rmtree(places[1])
    assert server.train(*mode, *given[1]) == 0, server.log.read_text()
    return max(largest, largest_difference(places[1] / "smoke", expected))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode, most", [(SMOKE, 0.0), (FLEET, ROUNDING)], ids=["alone", "in fleets"])
def test_killed_at_fifty_random_moments(server, tiny_folder, subject_folders, tmp_path, capsys, mode, most):
    places = [tmp_path / name for name in ("whole", "killed")]
    given = [[*tiny_overrides(tiny_folder, subject_folders, p), "seed=0", "trainer.steps=25"] for p in places]
    largest = killed_often(server, mode, given, places, 50)
    with capsys.disabled():
        print(f"\nlargest difference after 50 kills: {largest:g}")
    assert largest <= most


def test_a_run_that_lost_a_file_is_done_again(tiny_folder, subject_folders, out):
    """Complete or absent: what its record vouches for must be there."""
    config = composed(*tiny_overrides(tiny_folder, subject_folders, out))
    folder, resources = run_folder(validate(config)), Resources()
    run(config, resources)
    weights = (folder / "adapters.safetensors").read_bytes()
    for file, content in (("adapters.safetensors", b""), ("samples/index.jsonl", None), ("record.json", b'{"format"')):
        path, kept = folder / file, (folder / file).read_bytes()
        assert Record.find(folder) is not None
        path.unlink() if content is None else path.write_bytes(content)
        assert Record.find(folder) is None
        path.write_bytes(kept)
    (folder / "adapters.safetensors").unlink()
    assert run(config, resources).status == "finished"
    assert (folder / "adapters.safetensors").read_bytes() == weights


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a folder on a file system of its own of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode().strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing_and_is_named(server, tiny_folder, subject_folders, small_disk, undisturbed):
    """Wherever it fills up: in a checkpoint, the weights, a sample or the record; with room it goes on."""
    disk = small_disk(50_000_000)
    overrides = [*tiny_overrides(tiny_folder, subject_folders, disk), "seed=0", "trainer.steps=12"]
    assert server.train(*SMOKE, *overrides, "adapter=attn2o-ffni") == 0
    place = os.statvfs(disk)
    room = (place.f_blocks - place.f_bfree) * place.f_frsize + 60_000  # less than the weights of a run
    subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)
    for _ in range(2):
        assert server.train(*SMOKE, *overrides) == 1
        said = server.log.read_text()
        assert "error: No space left on device" in said and "make room" in said.splitlines()[-1]
        assert "Traceback" not in said
    done = complete(disk / "smoke")
    assert len(done) == 1 and all(run["record"]["status"] == "finished" for run in done.values())
    assert {path.name for path in (disk / "smoke").iterdir() if path.name[0] != "."} == {"base", *done}
    subprocess.run(["mount", "-o", "remount,size=50000000", str(disk)], check=True)
    assert server.train(*SMOKE, *overrides) == 0
    assert contents(disk / "smoke") == undisturbed[0]


@pytest.mark.parametrize("what", ["write_checkpoints", "save_samples", "Record.write"])
def test_no_space_in_the_middle_of_a_write(tiny_folder, subject_folders, out, monkeypatch, what):
    """A checkpoint that cannot be kept does not end a run; anything else ends it in a sentence, with nothing half."""
    config = composed(*tiny_overrides(tiny_folder, subject_folders, out), "checkpoint_seconds=0")
    place = {
        "write_checkpoints": "sdpet.runs.checkpoint.write_checkpoints",
        "save_samples": "sdpet.scoring.save_samples",
        "Record.write": "sdpet.runs.start.Record.write",
    }[what]

    def full(*arguments):
        raise OSError(28, "No space left on device", "some/file")

    with monkeypatch.context() as disk:
        disk.setattr(place, full)
        if what == "write_checkpoints":
            assert run(config, Resources()).status == "finished"
            return
        with pytest.raises(OSError) as caught:
            run(config, Resources())
    assert sentence(caught.value).startswith("No space left on device (some/file); make room")
    assert not run_folder(validate(config)).exists()
    assert run(config, Resources()).status == "finished"


def test_checkpoints_of_a_fleet_are_equally_far(tmp_path, monkeypatch):
    """Killed between the writing of two of them, their runs still go on together, and so to the same last bit."""
    folders = [tmp_path / "study" / name for name in "ab"]

    def write(step):
        write_checkpoints({folder: {"step": step} for folder in folders})

    def kept():
        return [read_checkpoint(folder)["step"] for folder in folders]

    write(1)
    with monkeypatch.context() as killed:
        whole, written = Path.write_bytes, []

        def until_killed(path, data):
            if written:
                raise KeyboardInterrupt
            written.append(whole(path, data))

        killed.setattr(Path, "write_bytes", until_killed)
        with pytest.raises(KeyboardInterrupt):
            write(2)
    assert written and kept() == [1, 1]
    write(2)
    assert kept() == [2, 2] and len(list((tmp_path / "study" / ".checkpoints").iterdir())) == 2


# Claims, as two machines see them: the second one is played by another name of the machine.


@pytest.fixture
def elsewhere(monkeypatch):
    """Changes this process into one of another machine, and back."""
    name = claims.machine()

    def go(there: bool = True) -> None:
        monkeypatch.setattr(claims, "machine", lambda: "elsewhere" if there else name)

    return go


def left_behind(folder: Path, monkeypatch) -> Path:
    """The lease of an owner that was killed."""
    child = os.fork()
    if child == 0:
        with run_lock(folder):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (lease,) = claims.locks_folder(folder).glob("*.0")
    return lease


def test_a_dead_owner_on_this_machine_frees_its_run_at_once(tmp_path, monkeypatch):
    lease = left_behind(tmp_path / "run", monkeypatch)
    assert lease.exists()
    with run_lock(tmp_path / "run") as mine:
        assert mine and mine.is_held()
    assert not list(claims.locks_folder(tmp_path / "run").iterdir())


def test_a_dead_owner_on_another_machine_frees_it_after_a_while(tmp_path, monkeypatch, elsewhere):
    """As long as its stamp changes it lives, whatever the clocks say: stamps of 1970 and of 2100 alike."""
    monkeypatch.setattr(claims, "STALE", 0.3)
    lease = left_behind(tmp_path / "run", monkeypatch)
    elsewhere()
    for stamp in (4102444800, 0, 7, 4102444801):
        os.utime(lease, (stamp, stamp))
        for _ in range(2):
            with run_lock(tmp_path / "run") as mine:
                assert mine is None
        time.sleep(0.35)  # more than STALE, but it moves again
    monkeypatch.setattr(time, "time", lambda: 1e10)  # our own clock jumps too
    with run_lock(tmp_path / "run") as mine:
        assert mine and mine.is_held()
        elsewhere(False)
        with run_lock(tmp_path / "run") as second:
            assert second is None
    assert not list(claims.locks_folder(tmp_path / "run").iterdir())


class Remembering(dict):
    """Eight processes have eight memories; in the eight threads that play them, none clears that of the others."""

    def pop(self, *key):
        pass


def test_of_several_that_find_a_dead_owner_one_takes_over(tmp_path, monkeypatch, elsewhere):
    """Without locks, as on file systems that have none; an owner that wakes up again knows that it has lost."""
    monkeypatch.setattr(claims, "STALE", 1000.0)
    monkeypatch.setattr(claims, "_lock", lambda path: -1)
    monkeypatch.setattr(claims, "INTERVAL", 1000.0)
    folder = tmp_path / "run"
    with run_lock(folder) as asleep:
        assert asleep.is_held()
        elsewhere()
        with run_lock(folder) as first_look:
            assert first_look is None
        taken, ready, read = [], threading.Barrier(8), claims._read

        def read_together(lease):
            found = read(lease)
            ready.wait()  # all have seen the dead owner before the first one acts
            return found

        monkeypatch.setattr(claims, "_read", read_together)

        def challenge() -> None:
            with run_lock(folder) as mine:
                taken.append(mine is not None)
                ready.wait()

        threads = [threading.Thread(target=challenge) for _ in range(8)]
        seen = {lease: (stamp, -1e9) for lease, (stamp, _) in claims._SEEN.items()}
        monkeypatch.setattr(claims, "_SEEN", Remembering(seen))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) == 1
        assert not asleep.is_held()


def test_an_owner_that_was_thought_dead_writes_no_record(tiny_folder, subject_folders, out, monkeypatch):
    config = composed(*tiny_overrides(tiny_folder, subject_folders, out))
    monkeypatch.setattr(claims.RunLock, "is_held", lambda self: False)
    assert run(config, Resources()) is None
    assert Record.find(run_folder(validate(config))) is None
