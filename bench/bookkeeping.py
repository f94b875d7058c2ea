"""Cost of all bookkeeping at 1 to 200,000 existing runs: python bench/bookkeeping.py [--sizes 1,1000,20000,200000].

Makes studies of finished runs as `python train.py -m` leaves them (config, record, plan; no weights, no pictures), then
measures: planning the whole study (composing, checking, hashing), the study asked for again when all of it is there,
 `python -m sdpet.study status`, `analysis.load_results`; and the share of one run: claim, config, record.
All are CPU seconds, so that other work on the machine does not count, but for claim, config and record, which wait for
the disk. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CELLS = 320  # 20 placements x 4 activations x 4 scales
RUNS = 20  # of which the share of one run is the median


def levels(runs: int) -> list[str]:
    """Overrides of a sweep with about so many runs."""
    if runs < CELLS:
        return [f"seed=range(0,{runs})"]
    form = ["adapter=glob(*-*)", "adapter.activation=relu,sig,silu,ident", "adapter.scale=0.5,1,2,4"]
    return [*form, f"seed=range(0,{-(-runs // CELLS)})"]


def timed(*command: str) -> tuple[float, str]:
    """CPU seconds of a command, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def fill(jobs: list) -> None:
    """A finished run for every job, with what a real one has in its record, settings and digests included."""
    import yaml

    from sdpet.config import identity, settings_of
    from sdpet.files import record_digest, unchanging
    from sdpet.runs import Record, factors

    loss = [[3 * (i + 1), 0.5 / (i + 1)] for i in range(100)]
    scores = {"clip_i": 0.5, "clip_t": 0.3, "prior_drift": 0.1}
    anchors = {name: {"floor": 0.1, "ceiling": 0.9} for name in scores}
    protocol = {"scorer": "lab", "sampler": {"name": "dpm", "steps": 20, "guidance": 2.5, "eta": 0.0}}
    with unchanging():
        for job in jobs:
            (job.folder / "samples").mkdir(parents=True, exist_ok=True)
            (job.folder / "samples" / "index.jsonl").write_text("")
            (job.folder / "config.yaml").write_text(yaml.safe_dump({"seed": job.config.seed}))
            record = Record(
                job.folder.name,
                job.config.study,
                "finished",
                factors(job.config, 60),
                {"name": "dreambooth", "data": "lab"},
            )
            record.metrics, record.anchors, record.protocol, record.loss = scores, anchors, protocol, loss
            record.seconds = {"train": 9.0, "per_step": 0.03, "sample": 2.0, "score": 0.1, "total": 12.0}
            record.settings = settings_of(job.config)
            content = {"format": record.format, **vars(record)}
            content["digests"] = {"record": record_digest(content), "files": {}, "study": {}}
            # Quicker than Record.write and write_identity, which wait for the disk.
            text = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
            (job.folder / "record.json").write_text(f"{{\n {text}\n}}\n")
            origin = {"run_id": job.folder.name, "identity": identity(job.config)}
            (job.folder / "identity.json").write_text(json.dumps(origin, indent=1))


def one_run(job) -> dict[str, float]:
    """Median seconds of what a run costs beside its work: its identity, its claim, its config and its record."""
    from sdpet.config import run_folder, validate
    from sdpet.files import run_lock
    from sdpet.runs import Record, prepare_run_folder, register_training

    found: dict[str, list[float]] = {"identity": [], "claim": [], "config": [], "record": []}
    record = Record.read(job.folder)
    for _ in range(RUNS):
        marks = [time.perf_counter()]
        folder = run_folder(validate(job.config)).with_name("bookkeeping")
        marks.append(time.perf_counter())
        with run_lock(folder):
            marks.append(time.perf_counter())
            prepare_run_folder(folder, job.config, resumes=False)
            marks.append(time.perf_counter())
            record.write(folder)
            register_training(folder, job.config)
            marks.append(time.perf_counter())
        for name, start, end in zip(found, marks, marks[1:], strict=False):
            found[name].append(end - start)
    return {name: statistics.median(values) for name, values in found.items()}


def measure(size: int, root: Path) -> dict[str, float]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from hydra_plugins.sdpet_sweeper import GridSweeper
    from sdpet.study import Composer, make_plan, write_manifest

    given = [f"output_root={root}", f"study=of{size}", *levels(size)]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        master = hydra.compose_config("config", given, RunMode.MULTIRUN, from_shell=False)
        sweeper = GridSweeper({})
        sweeper.hydra_context = type("Context", (), {"config_loader": hydra.config_loader})
        began = time.process_time()
        plan = make_plan(Composer(hydra.config_loader, master), sweeper.combinations(given))
        planning = time.process_time() - began
    fill(plan.jobs)
    study = plan.jobs[0].folder.parent
    write_manifest(study, plan.jobs, ["train.py", "-m", *given])
    first, _ = timed("train.py", "-m", *given)  # reads every record, and makes the index of them
    again, said = timed("train.py", "-m", *given)
    assert f"{len(plan.jobs)} already complete" in said, said
    status, said = timed("-m", "sdpet.study", "status", str(study))
    assert f"{len(plan.jobs)} of {len(plan.jobs)} run" in said and "(100%)" in said, said
    code = f"import time, analysis; t = time.process_time(); n = len(analysis.load_results({str(study)!r}));"
    _, loaded = timed("-c", code + f"assert n == {len(plan.jobs)}; print(time.process_time() - t)")
    shares = {f"one_{name}": seconds for name, seconds in one_run(plan.jobs[0]).items()}
    return {
        "runs": len(plan.jobs),
        "plan": planning,
        "asked_first": first,
        "asked_again": again,
        "status": status,
        "load": float(loaded),
        **shares,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,1000,20000")
    parser.add_argument(
        "--folder", default=None, help="where the studies are made and removed (default: a temporary one)"
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    found = []
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
            found.append(measure(size, Path(root)))
    print(f"{'':<28}" + "".join(f"{row['runs']:>12,} runs" for row in found))
    texts = {
        "plan": "plan the study, s", "asked_first": "train.py, no index yet, s",
        "asked_again": "train.py, all is there, s", "status": "status, s",
        "load": "analysis.load_results, s",
        "one_identity": "a run: check and hash, ms", "one_claim": "a run: claim, ms",
        "one_config": "a run: folder, config, ms", "one_record": "a run: record, ms",
    }  # fmt: skip
    for key, text in texts.items():
        factor = 1000 if key.startswith("one_") else 1
        print(f"{text:<28}" + "".join(f"{factor * row[key]:>17.2f}" for row in found))
    print(json.dumps({str(row.pop("runs")): row for row in found}))


if __name__ == "__main__":
    main()
