"""Loading results: run folders, CSV files and frames; what is left out is said, what cannot be compared is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import analysis


def write(folder, number, status="finished", seed=0, sampler="dpm", **factors):
    path = folder / f"run{number}"
    (path / "samples").mkdir(parents=True)
    record = {
        "format": 1, "run_id": f"id{number}", "study": "placement", "status": status, "reason": None,
        "factors": {"placement": "attn2o-ffni", "din": "attn2o", "dout": "ffni", "scale": 1.0, "method": "adapter",
                    "seed": seed, **factors},
        "task": {"name": "dreambooth", "data": "lab"},
        "metrics": {"clip_i": 0.5 + number / 100, "prior_drift": None} if status == "finished" else {},
        "anchors": {"clip_i": {"floor": 0.1, "ceiling": None}},
        "protocol": {"sampler": sampler, "eval_seed": "run seed"},
        "sizes": {"trainable_params": 100, "base_params": 10**6, "adapters": 7, "bytes": 500},
        "seconds": {"train": 1.0, "per_step": 0.01, "sample": 2.0, "score": 0.1, "total": 3.5}, "peak_memory": None,
        "loss": [[1, 0.5]], "versions": {}, "git_sha": None,
    }  # fmt: skip
    (path / "record.json").write_text(json.dumps(record))


def test_a_study_folder_is_one_row_a_run(tmp_path):
    for number in range(4):
        write(tmp_path / "a", number, seed=number % 2)
    write(tmp_path / "a", 8, status="diverged")
    write(tmp_path / "b", 3)  # the same run a second time
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{")
    frame = analysis.load_results(tmp_path)
    assert len(frame) == 4 and frame["run_id"].is_unique
    row = frame.iloc[1]
    assert (row["din"], row["seed"], row["clip_i"], row["clip_i_floor"]) == ("attn2o", 1, 0.51, 0.1)
    assert (row["seconds_per_step"], row["trainable_params"], row["task"], row["data"]) == (
        0.01,
        100,
        "dreambooth",
        "lab",
    )
    assert np.isnan(row["clip_i_ceiling"]) and np.isnan(row["prior_drift"]) and row["path"].endswith("run1")
    said = " ".join(frame.attrs["notes"])
    assert "1 diverged" in said and "more than once" in said and "could not be read" in said
    assert analysis.metric_columns(frame) == ["clip_i", "prior_drift"]
    assert analysis.factor_columns(frame) == [] and analysis.factor_columns(frame, seed=True) == ["seed"]
    assert len(analysis.load_results(tmp_path, status=None)) == 5


def test_scores_made_in_different_ways_are_not_mixed(tmp_path):
    write(tmp_path, 0, seed=0)
    write(tmp_path, 1, seed=1)
    assert analysis.load_results(tmp_path)["protocol_hash"].nunique() == 1
    write(tmp_path, 2, sampler="ddim")
    with pytest.raises(ValueError, match="scored in 2 different ways"):
        analysis.load_results(tmp_path)
    assert "cannot be compared" in analysis.load_results(tmp_path, mixed_protocols="flag").attrs["notes"][0]


def test_csv_and_frames(tmp_path):
    heat = analysis.load_paper_heatmap()
    heat.drop(columns=["placement", "component"]).to_csv(tmp_path / "heat.csv", index=False)
    frame = analysis.load_results(tmp_path / "heat.csv")
    assert frame["placement"].tolist() == heat["placement"].tolist()
    assert analysis.metric_columns(frame) == ["clip_similarity"]
    assert analysis.factor_columns(frame) == ["placement", "din", "dout"]
    wandb = pd.DataFrame(
        {
            "Name": ["x", "y", "z"],
            "State": ["finished", "finished", "crashed"],
            "adapter.din": ["a", "b", "b"],
            "adapter.dout": ["a", "b", "b"],
            "clip_i": [0.1, 0.2, None],
        }
    )
    frame = analysis.load_results(wandb)
    assert frame["placement"].tolist() == ["a-a", "b-b"] and "1 crashed" in frame.attrs["notes"][0]
    again = analysis.load_results(frame)
    assert again["placement"].equals(frame["placement"])


@pytest.mark.parametrize("content", [None, "", "folder"])
def test_nothing_to_load_is_one_sentence(tmp_path, content):
    path = tmp_path / "runs"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]+\.?$"):
        analysis.load_results(path)


def scored(folder, run_id, metrics, evaluations=(), **changes):
    """A record with one entry of the protocol a metric; `changes` are {metric: images}."""
    scores = {m: {"scorer": "s", "images": changes.get(m, 4), "against": "references"} for m in metrics}
    protocol = {"sampler": {"steps": 20}, "reference_hash": "r", "scores": scores}
    record = {"run_id": run_id, "study": "x", "status": "finished", "factors": {"din": "ffni", "dout": "transo"},
              "task": {"name": "dreambooth", "data": "lab"}, "metrics": metrics, "anchors": {}, "protocol": protocol,
              "evaluations": list(evaluations)}  # fmt: skip
    (folder / run_id).mkdir(parents=True)
    (folder / run_id / "record.json").write_text(json.dumps(record))


def test_each_score_is_compared_by_its_own_protocol(tmp_path):
    scored(tmp_path, "a", {"clip_i": 0.5, "clip_t": 0.2})
    scored(tmp_path, "b", {"clip_i": 0.6, "dino_i": 0.4})  # another score beside it changes nothing
    frame = analysis.load_results(tmp_path)
    assert analysis.load_results(frame.drop(columns="path")).shape[0] == 2
    columns = [*analysis.runs.load.metric_columns(frame), *analysis.runs.load.factor_columns(frame)]
    assert not any(column.endswith("_protocol") for column in columns)
    scored(tmp_path, "c", {"clip_i": 0.6, "clip_t": 0.1}, clip_t=8)
    with pytest.raises(ValueError, match="cannot be compared: clip_t;"):
        analysis.load_results(tmp_path)
    record = json.loads((tmp_path / "c" / "record.json").read_text())
    del record["protocol"]["scores"]  # as written before scores had entries: not taken for equal
    (tmp_path / "c" / "record.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="cannot be compared"):
        analysis.load_results(tmp_path)


def test_scores_added_later_can_be_chosen(tmp_path):
    asked = {"eval=paper": 0.9, "sampler=ddim": 0.7}
    later = [
        {"asked": [a], "metrics": {"clip_i": v}, "anchors": {}, "protocol": {"sampler": a}} for a, v in asked.items()
    ]
    scored(tmp_path, "a", {"clip_i": 0.5}, later)
    scored(tmp_path, "b", {"clip_i": 0.6})
    assert list(analysis.load_results(tmp_path)["clip_i"]) == [0.5, 0.6]
    paper = analysis.load_results(tmp_path, scores="eval=paper")
    assert list(paper["clip_i"]) == [0.9] and "1 run(s) have no scores of eval=paper" in paper.attrs["notes"][0]
    with pytest.raises(ValueError, match="cannot be compared"):
        analysis.load_results(tmp_path, scores="last")
    with pytest.raises(ValueError, match=r"choose from first, last, eval=paper, sampler=ddim, or .*evaluate\.py"):
        analysis.load_results(tmp_path, scores="eval=full")
    with pytest.raises(ValueError, match="only of a folder"):
        analysis.load_results(paper, scores="last")


def test_guidance_of_later_scores_is_that_of_their_samples(tmp_path):
    """A run scored again under other guidance must not pass for one of the old guidance."""
    for run in "ab":
        scored(tmp_path, run, {"clip_i": 0.5})
        file = tmp_path / run / "record.json"
        record = json.loads(file.read_text())
        record["factors"]["guidance"] = record["protocol"]["sampler"]["guidance"] = 2.5
        if run == "a":
            other = record["protocol"] | {"sampler": {"steps": 20, "guidance": 4.0}}
            asked = ["eval=lab", "sampler.guidance=4"]
            record["evaluations"] = [{"asked": asked, "metrics": {"clip_i": 0.7}, "anchors": {}, "protocol": other}]
        file.write_text(json.dumps(record))
    frame = analysis.load_results(tmp_path, scores="last").set_index("run_id")
    assert frame["guidance"].to_dict() == {"a": 4.0, "b": 2.5} and "guidance" in analysis.factor_columns(frame)
    (note,) = frame.attrs["notes"]
    assert "Only 1 of 2 runs were scored again" in note and "guidance 2.5 instead of 4" in note
    both = analysis.load_results(tmp_path, scores="sampler.guidance=4 eval=lab")
    assert list(both["clip_i"]) == [0.7]
