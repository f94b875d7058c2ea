"""What surrounds the scores: equal images give equal scores, the cache, noise maps, scoring runs and folders again."""

from __future__ import annotations

import dataclasses
import html
import json
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from study_tools import ROOT, composed, environment, tiny_overrides, train
from tiny_scorer import TinyScorer

from sdpet.adapters import AdapterSpec
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.commands.guidance_curve import evaluate_curve
from sdpet.commands.scored_again import Scored, study_text
from sdpet.config import run_folder, validate
from sdpet.lab import JudgeScorer, load_scorer
from sdpet.methods import Design, build
from sdpet.models import load_base
from sdpet.runs import Record, Resources, run_together
from sdpet.scoring import EvalPlan, PromptSet, Scorers, feature_cache, noise_differences, scorers
from sdpet.scoring.noise import LEVELS, protocol_entry
from sdpet.seeds import generator
from sdpet.study.report import outcome
from sdpet.tasks import DreamBoothTask


def lab_pictures(n, seed):
    from sdpet.lab import caption, render, sample_scenes

    scenes = sample_scenes(n, seed=seed)
    return render(scenes), [caption(scenes, i) for i in range(n)]


def test_equal_images_have_equal_scores_in_any_order_and_batch_from_memory_and_disk(tmp_path, monkeypatch):
    images, prompts = lab_pictures(60, 1)
    references, _ = lab_pictures(80, 2)
    plan = EvalPlan(distances=("fid", "kid", "precision_recall", "density_coverage", "cmmd"))

    def scores(images, prompts, references):
        known = Scorers({"clip": load_scorer(), "judge": JudgeScorer()})
        task = PromptSet(prompts, references)
        return task.scores(images, task.eval_images(dataclasses.replace(plan, images=len(images))), known, plan)

    first = scores(images, prompts, references)
    assert {"clip_i", "clip_t", "judge_i", "fid", "fid_infinity", "judge_fid", "kid", "recall", "cmmd"} <= set(first)
    order, other = np.random.default_rng(0).permutation(60), np.random.default_rng(1).permutation(80)
    monkeypatch.setattr(scorers, "CHUNK", 7)
    assert scores(images[order], [prompts[i] for i in order], references[other]) == pytest.approx(first, abs=1e-6)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:03d}.png")
    stored = np.stack([np.asarray(Image.open(file)) for file in sorted(tmp_path.iterdir())])
    assert scores(stored, prompts, references) == pytest.approx(first, abs=1e-6)


def test_reference_features_are_computed_once_and_checked(tmp_path):
    images = lab_pictures(9, 3)[0]
    calls = []

    class Counting(TinyScorer):
        def encode_image(self, images):
            calls.append(len(images))
            return super().encode_image(images)

    def features(scorer=None):
        return Scorers({"clip": scorer or Counting()}, cache=tmp_path).reference_features("clip", images)

    first = features()
    assert torch.equal(features(), first) and calls == [9]
    file = next(tmp_path.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # a bit of the last number
    file.write_bytes(content)
    assert torch.equal(features(), first) and calls == [9, 9], "damaged features are computed again"
    file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(features(), first) and calls == [9, 9, 9]
    other = Counting()
    other.weight_hash = "1"
    features(other)
    assert len(calls) == 4, "another scorer's features are its own"
    key = feature_cache.cached_features(tmp_path, "another set", {}, lambda: torch.zeros(2, 3))
    assert key.shape == (2, 3) and len(list(tmp_path.glob("*"))) == 3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_difference_is_that_of_the_two_prompts(tiny_base, subject_folders, prediction):
    from diffusers import DDPMScheduler

    config = {**tiny_base.scheduler.config, "prediction_type": prediction}
    base = dataclasses.replace(tiny_base, scheduler=DDPMScheduler.from_config(config))
    folders = [subject_folders["subject"], subject_folders["class"]]
    task = DreamBoothTask(base, *folders, "a photo of a sks star", "a photo of a star")
    handle = build(base, Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=4, init="default")), 0)
    try:
        found = noise_differences(base, task, [5], EvalPlan(noise_images=3))[0]
        noise = torch.randn(task.class_latents[:3].shape, generator=generator(5, "noise difference"))
        total = torch.zeros(found.shape)
        with torch.no_grad():
            for clean, fresh in zip(task.class_latents[:3], noise, strict=True):
                for level in LEVELS:
                    t = torch.tensor([int(level * 1000)])
                    kept = base.scheduler.alphas_cumprod[t]
                    noisy = kept.sqrt() * clean[None] + (1 - kept).sqrt() * fresh[None]
                    both = []
                    for prompt in ("a photo of a sks star", "a photo of a star"):
                        out = base.predict(noisy, t, base.encode_text([prompt]))
                        both.append(kept.sqrt() * out + (1 - kept).sqrt() * noisy if "v" in prediction else out)
                    total += (both[0] - both[1]).abs()[0].mean(dim=0) / (3 * len(LEVELS))
    finally:
        handle.detach()
    np.testing.assert_allclose(found, total.numpy(), rtol=1e-3, atol=1e-6)
    assert found.mean() > 0
    assert "quantity" not in protocol_entry(base, task, EvalPlan())


def test_noise_difference_of_flow_matching_is_of_the_velocity(subject_folders):
    base = load_base("lab_dit")
    folders = [subject_folders["subject"], subject_folders["class"]]
    task = DreamBoothTask(base, *folders, "a photo of a sks star", "a photo of a star")
    plan = EvalPlan(noise_images=1)
    found = noise_differences(base, task, [5], plan)[0]
    clean = task.class_latents[:1]
    fresh = torch.randn(clean.shape, generator=generator(5, "noise difference"))
    text = base.encode_text(["a photo of a sks star", "a photo of a star"])
    total = torch.zeros(found.shape)
    with torch.no_grad():
        for level in LEVELS:
            noisy = (1 - level) * clean + level * fresh
            velocity = [base.predict(noisy, torch.tensor([1000 * level]), row[None])[0] for row in text]
            total += (velocity[0] - velocity[1]).abs().mean(dim=0) / len(LEVELS)
    np.testing.assert_allclose(found, total.numpy(), rtol=1e-3, atol=1e-6)
    assert protocol_entry(base, task, plan)["quantity"] == "velocity"


def again(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", ["trust=true", *overrides]), list(overrides)


@pytest.fixture(scope="module")
def study(tiny_folder, subject_folders, tmp_path_factory):
    """Three runs of one study: two seeds of a placement and one of another."""
    out = tmp_path_factory.mktemp("study")
    given = [*tiny_overrides(tiny_folder, subject_folders, out), "study=s", "trainer.lr=1e-2"]
    configs = [composed(*given, *more) for more in ([], ["seed=1"], ["adapter=ffni-ffni"])]
    records = run_together(configs, Resources())
    assert [record.status for record in records] == ["finished"] * 3
    return [run_folder(validate(config)) for config in configs]


def test_a_study_is_scored_again_in_fleets_as_each_run_alone(study, tmp_path):
    alone, together = (tmp_path / name / "s" for name in ("alone", "together"))
    for copied in (alone, together):
        shutil.copytree(study[0].parent, copied)
    asked = ["eval.subject_images=2", "eval.prompt_images=1", "quiet=true"]
    mixed = ",".join(str(together / study[i].name) for i in (0, 2, 1))  # rows stand otherwise: equal shapes together
    evaluate_again(*again(f"run=[{mixed}]", *asked))
    for folder in study:
        evaluate_again(*again(f"run={alone / folder.name}", *asked))
        own, shared = (Record.read(root / folder.name) for root in (alone, together))
        assert own.metrics == Record.read(folder).metrics, "the first scores stay"
        assert len(shared.evaluations) == 1 and shared.evaluations[0]["asked"] == asked[:2]
        expected = own.evaluations[0]
        assert shared.evaluations[0]["metrics"] == pytest.approx(expected["metrics"], abs=1e-4)
        assert shared.evaluations[0]["protocol"] == expected["protocol"]
        assert expected["protocol"]["scores"]["clip_i"]["images"] == {"subject": 2}
        assert (together / folder.name / "evaluations" / "001" / "samples" / "00000.png").exists()
    before = [(together / folder.name / "record.json").read_bytes() for folder in study]
    evaluate_again(*again(f"run={together}/*", *asked))  # base/ is no run; existing scores are not computed again
    assert before == [(together / folder.name / "record.json").read_bytes() for folder in study]


def test_scoring_a_study_again_prints_the_new_scores_and_where_they_are(study, tmp_path, capsys):
    root = tmp_path / "s"
    shutil.copytree(study[0].parent, root)
    asked = ["eval.subject_images=2", "eval.class_images=0", "eval.prompt_images=0"]
    for first in (True, False):
        evaluate_again(*again(f"run={root}", *asked, "quiet=true"))
        out = capsys.readouterr().out
        count = "3 scored" if first else "3 already scored with this protocol (skipped)"
        assert f"3 runs: {count}\n" in out
        entries = [Record.read(root / folder.name).evaluations[0] for folder in study]
        values = [entry["metrics"]["clip_i"] for entry in entries]
        row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["clip_i"])
        floor = sum(entry["anchors"]["clip_i"]["floor"] for entry in entries) / 3
        cells = (sum(values) / 3, min(values), max(values), floor)
        assert row[1:] == [f"{cell:.3f}" for cell in cells]
        assert f"  scores    {root}/RUN/record.json, in its evaluations\n" in out
        assert f"  samples   {root}/RUN/evaluations/001/samples\n" in out
        assert f"python -m analysis {root} --scores '{' '.join(asked)}' --metric " in out


def test_a_score_that_is_new_is_told_from_those_that_are_as_before():
    record = Record("a", "s", "finished", {}, {})
    record.metrics = {"clip_i": 0.5, "clip_t": 0.25}
    entry = {"metrics": {"clip_i": 0.5, "clip_t": 0.2500000001, "judge_i": 0.75}, "anchors": {}, "samples": "samples"}
    run = Scored(Path("out/s/a"), record, entry | {"asked": ["eval=lab_full"]}, True)
    assert run.changed == {"judge_i": 0.75} and outcome(run.shown()) == "judge_i 0.750"
    text = study_text([run, run])
    assert "  judge_i     0.750     0.750     0.750         -\n  as before clip_i, clip_t\n" in text
    assert text.endswith("next      python -m analysis out/s --scores eval=lab_full --metric judge_i")


def test_a_report_of_later_scores_shows_their_numbers_and_images(study, tmp_path):
    from analysis.report import write_report
    from analysis.report.study import read_study

    root = tmp_path / "s"
    shutil.copytree(study[0].parent, root)
    asked = ["eval.subject_images=2", "sampler.guidance=5"]
    evaluate_again(*again(f"run={root}", *asked, "quiet=true"))
    later = read_study(root, "clip_i", None, scores=" ".join(asked))
    first = read_study(root, "clip_i", None)
    for row in later.done.itertuples():
        folder = root / row.run_id
        entry = Record.read(folder).evaluations[0]
        assert row.clip_i == entry["metrics"]["clip_i"] != Record.read(folder).metrics["clip_i"]
        assert row.clip_i_floor == entry["anchors"]["clip_i"]["floor"] and row.guidance == 5
        images, base = later.images_of(row.path), later.bases[row.seed]
        assert images == folder / entry["samples"] and first.images_of(row.path) == folder / "samples"
        index = (images / "index.jsonl").read_text()
        assert index.count('"subject"') == 2
        assert drawn(index) == drawn((base / "samples" / "index.jsonl").read_text()), (
            "the floor under the same protocol"
        )
        assert float(np.load(base / "noise_difference.npz")["map"].mean()) == pytest.approx(
            entry["anchors"]["noise_difference"]["floor"], rel=1e-5
        )
        assert first.bases[row.seed] == root / "base" / f"seed{row.seed}" != base
    report = write_report(root, "clip_i", scores=" ".join(asked))
    page = html.unescape(report.page.read_text())
    assert f"--scores {shlex.quote(' '.join(asked))}" in page, "how to make the report again"
    with pytest.raises(ValueError, match=r"choose from first, last, eval.subject_images=2 sampler.guidance=5, or"):
        read_study(root, scores="eval=paper")


def drawn(index):
    """The rows of an index of samples, without the digests of the images."""
    return [{k: v for k, v in json.loads(row).items() if k != "digest"} for row in index.splitlines()]


def test_the_base_is_sampled_once_a_seed_and_is_no_run(study):
    import analysis

    root = study[0].parent
    assert sorted(path.name for path in (root / "base").iterdir()) == ["seed0", "seed1"]
    index = (root / "base" / "seed1" / "samples" / "index.jsonl").read_text()
    assert drawn(index) == drawn((study[1] / "samples" / "index.jsonl").read_text())
    base = np.load(root / "base" / "seed0" / "noise_difference.npz")["map"]
    tuned = np.load(study[0] / "noise_difference.npz")["map"]
    assert base.shape == tuned.shape and base.dtype == np.float32 and not np.allclose(base, tuned)
    record = Record.read(study[0])
    assert record.metrics["noise_difference"] == pytest.approx(float(tuned.mean()), rel=1e-5)
    assert record.anchors["noise_difference"]["floor"] == pytest.approx(float(base.mean()), rel=1e-5)
    assert len(analysis.load_results(root)) == 3


def test_base_samples_come_back_when_only_they_are_gone(study, tiny_folder, subject_folders):
    root = study[0].parent
    before = (root / "base" / "seed0" / "samples" / "00000.png").read_bytes()
    shutil.rmtree(root / "base")
    shutil.rmtree(root.parent / ".anchors", ignore_errors=True)
    given = [*tiny_overrides(tiny_folder, subject_folders, root.parent), "study=s", "trainer.lr=1e-2"]
    run_together([composed(*given, "adapter=transo-transo")], Resources())
    assert (root / "base" / "seed0" / "samples" / "00000.png").read_bytes() == before


def test_a_curve_is_drawn_over_guidance_and_goes_on(study, capsys, monkeypatch):
    drawn = ["guidance=[1,3]", "curve=true", "sampler=plms", "sampler.steps=2", "quiet=true"]
    evaluate_curve(*again(f"run={study[0]}", *drawn))
    folder = study[0] / "guidance"
    table = (folder / "guidance.csv").read_text().splitlines()
    assert len(table) == 5 and table[0].startswith("model,guidance,clip_i,clip_t")
    assert (folder / "guidance.svg").read_text().startswith("<?xml") and (folder / "guidance.png").stat().st_size > 5000
    rows = [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]
    at = {(row["model"], row["guidance"]): row["clip_i"] for row in rows}
    assert len(at) == 4 and len(set(at.values())) == 4
    calls = []
    monkeypatch.setattr(
        "sdpet.scoring.curve.evaluate_run", lambda *a: calls.append(a[3]) or (_ for _ in ()).throw(FloatingPointError)
    )
    evaluate_curve(*again(f"run={study[0]}", *drawn[1:], "guidance=[1,3,4]"))
    assert [sampler.guidance for sampler in calls] == [4, 4], "existing points are not computed again"


def folder_of(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i}.png")
    return path


WRONG = [
    # what is done to a folder of six images, further arguments, what the sentence must say
    (lambda folder: [file.unlink() for file in folder.iterdir()], [], ["holds no image"]),
    (lambda folder: [(folder / f"{i}.png").unlink() for i in range(1, 6)], [], ["at least two", "eval.distances=[]"]),
    (lambda folder: (folder / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n"), [], ["3.png", "cannot be read"]),
    (lambda folder: Image.new("RGB", (8, 9)).save(folder / "5.png"), [], ["32x32", "8x9", "size=SIDE"]),
    (lambda folder: shutil.rmtree(folder), [], ["does not exist"]),
    (lambda folder: None, ["prompts=/nowhere.txt"], ["/nowhere.txt", "do not exist"]),
    (
        lambda folder: None,
        ["eval=paper", "eval.scorer.pretrained=/nowhere.pt"],
        ["scorer clip is not available", "nowhere"],
    ),
    (lambda folder: None, ["eval.distances=[fidd]"], ["eval.distances", "did you mean fid"]),
    (lambda folder: None, ["eval.prompts=animals"], ["objects, living"]),
]


def test_folders_are_scored_and_wrong_ones_get_one_sentence(tmp_path, capsys):
    from sdpet.commands.evaluate_images import evaluate_images

    images, prompts = lab_pictures(6, 4)
    references = folder_of(tmp_path / "references", lab_pictures(7, 5)[0])
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    common = [f"reference={references}", f"out={tmp_path / 'out'}"]
    good = folder_of(tmp_path / "good", images)
    for _ in range(2):
        evaluate_images(again(f"images={good}", *common, f"prompts={tmp_path / 'prompts.txt'}")[0])
    out = capsys.readouterr().out
    assert "clip_t" in out and "skipped" in out
    stored = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    expected = Scorers.of(load_scorer())
    task = PromptSet(prompts, lab_pictures(7, 5)[0])
    made = task.scores(images, task.eval_images(EvalPlan(images=6)), expected, EvalPlan())
    assert np.isnan(made.pop("fid_infinity")) and stored["metrics"].pop("fid_infinity") is None, "of a handful"
    assert stored["metrics"] == pytest.approx(made, abs=1e-6)
    for number, (damage, more, says) in enumerate(WRONG):
        folder = folder_of(tmp_path / str(number), images)
        damage(folder)
        with pytest.raises(Exception) as caught:
            evaluate_images(again(f"images={folder}", *common, *more)[0])
        assert all(part in str(caught.value) for part in says), (more, str(caught.value))


def test_a_handful_of_images_has_one_note_no_extrapolation_and_plain_json(tmp_path, capsys):
    from sdpet.commands.evaluate_images import evaluate_images

    images = lab_pictures(6, 4)[0]
    same = [folder_of(tmp_path / name, images) for name in ("a", "b")]
    given = [f"images={same[0]}", f"reference={same[1]}", f"out={tmp_path / 'out'}"]
    judged = "+eval.similarity.judge._target_=judge"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):  # made, and read again
            evaluate_images(again(*given, judged)[0])
            table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
            assert table["fid_infinity"][0] == "-" and table["fid"][0].startswith("~") and len(table["fid"][0]) <= 8
    text = next((tmp_path / "out").glob("*.json")).read_text()
    stored = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert stored["metrics"]["fid_infinity"] is None and stored["metrics"]["judge_fid_infinity"] is None
    assert len([w for w in said if "singular" in str(w.message)]) == 1


def test_samples_of_a_run_are_scored_by_their_roles(study, subject_folders, tmp_path, capsys):
    """As the record has them: of all images only those of the subject are compared with its photos."""
    from sdpet.commands.evaluate_images import evaluate_images

    scorer = [text for text in tiny_overrides("", subject_folders, tmp_path) if text.startswith("eval.scorer")]
    out = tmp_path / "out"
    given = [f"images={study[0] / 'samples'}", f"reference={subject_folders['subject']}", f"out={out}", *scorer]
    evaluate_images(again(*given)[0])
    stored = json.loads(next(out.glob("*.json")).read_text())
    record = Record.read(study[0])
    assert stored["metrics"]["clip_t"] == pytest.approx(record.metrics["clip_t"], abs=1e-6), "without the token"
    ours, theirs = (stored["protocol"]["scores"], record.protocol["scores"])
    assert {name: entry["images"] for name, entry in ours.items()} == {name: theirs[name]["images"] for name in ours}
    assert "clip_i" in ours and "fid" not in ours and " subject, " in capsys.readouterr().out


def test_a_main_scorer_that_is_not_here_ends_training_before_it_begins(tiny_folder, subject_folders, tmp_path):
    """No network: the hub is asked once, at an address that refuses."""
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    given = [override for override in given if "eval.scorer" not in override]
    import subprocess
    import sys

    ended = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *given, "eval=paper"],
        env={**environment(), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "is not available" in ended.stderr and "hub cannot be reached" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and not list(tmp_path.glob("single/*"))


def test_nothing_to_score_is_said(tmp_path):
    ended = train(f"run={tmp_path}/*", script="evaluate.py")
    assert ended.returncode == 1 and "no finished run" in ended.stderr and "Traceback" not in ended.stderr
