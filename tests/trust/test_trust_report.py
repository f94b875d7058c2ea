"""A study that others wrote: its report shows none of this machine's files, and one bad record costs only itself."""

from __future__ import annotations

import base64
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_study import write_study
from PIL import Image

import analysis
from analysis.__main__ import main
from analysis.report.samples import data_uri, sample_index
from analysis.report.tables import Column, make_table
from sdpet.files import hash_images, load_folder

PLACEMENTS = ("attn2o-ffni", "ffni-ffni", "attn1i-ffni")


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "received", PLACEMENTS, seeds=(0, 1), samples=2)


@pytest.fixture
def private(tmp_path):
    """A picture of this machine that belongs to no study, and what would show it on a page."""
    folder = tmp_path / "private"
    folder.mkdir()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(folder / "0.png")
    return folder


def shown(file, side=192):
    return data_uri(file, side) or "none"


@pytest.mark.parametrize("way", ["absolute", "climbing", "link"])
def test_pictures_outside_the_study_are_on_no_page(study, private, way):
    for run in study.glob("*/record.json"):
        index = run.parent / "samples" / "index.jsonl"
        name = {"absolute": str(private / "0.png"), "climbing": "../../../private/0.png", "link": "linked.png"}[way]
        if way == "link":
            (index.parent / "linked.png").symlink_to(private / "0.png")
        rows = [json.loads(line) for line in index.read_text().splitlines()]
        index.write_text("".join(json.dumps({**row, "file": name}) + "\n" for row in rows))
        assert sample_index(index.parent, 0, "subject") == {}
    assert main([str(study), "--quiet"]) == 0
    assert shown(private / "0.png")[30:] not in (study / "report" / "index.html").read_text()


@pytest.mark.parametrize("own", [False, True])
def test_photos_of_a_folder_that_a_config_names_are_shown_only_if_runs_were_scored_by_them(study, private, own):
    digest = hash_images(load_folder(private, 32)) if own else "0" * 32
    for file in study.glob("*/record.json"):
        record = json.loads(file.read_text())
        record["task"]["data"] = "folder"
        record["protocol"]["reference_hash"] = digest
        file.write_text(json.dumps(record))
        (file.parent / "config.yaml").write_text(yaml.safe_dump({"data": {"subject_dir": str(private)}}))
    assert main([str(study), "--quiet"]) == 0
    assert (shown(private / "0.png")[30:] in (study / "report" / "index.html").read_text()) is own


BAD = {
    "a list as factor": {"factors": {"seed": [1]}},
    "a dict as factor": {"factors": {"placement": {"a": 1}}},
    "a text as seed": {"factors": {"seed": "one"}},
    "factors as list": {"factors": [1]},
    "run_id": {"run_id": ["a"]},
    "run_id number": {"run_id": {"a": 1}},
    "seconds": {"seconds": [1, 2]},
    "seconds text": {"seconds": {"train": "long"}},
    "anchors": {"anchors": {"clip_i": 3}},
    "anchors list": {"anchors": [1]},
    "metrics text": {"metrics": {"clip_i": "high"}},
    "metrics over a column": {"metrics": {"run_id": 1.0}},
    "huge number": {"metrics": {"clip_i": 10**400}},
    "task": {"task": "dreambooth"},
    "status": {"status": 3},
    "no status": {"status": None},
    "loss": {"loss": [[1]]},
    "loss mapping": {"loss": {"a": 1}},
    "protocol": {"protocol": [1]},
    "versions": {"versions": {"torch": {"a": 1}}},
    "evaluations": {"evaluations": [3]},
    "a climbing folder of images": {"evaluations": [{"samples": "../../private", "asked": []}]},
    "later format": {"format": 2},
}


def test_a_bad_record_costs_only_itself_and_is_named(study, capsys):
    whole = sorted(study.glob("*/record.json"))
    bad = []
    for number, name in enumerate([*BAD, "deep", "not JSON", "not UTF-8"]):
        file = study / f"bad{number}" / "record.json"
        file.parent.mkdir()
        bad.append(file)
        if name == "deep":
            file.write_text('{"factors": ' * 100_000)
        elif name == "not JSON":
            file.write_text('{"factors": ')
        elif name == "not UTF-8":
            file.write_bytes(b'{"a": "\xff"}')
        else:
            file.write_text(json.dumps({**json.loads(whole[0].read_text()), "run_id": f"bad{number}", **BAD[name]}))
        frame = analysis.load_results(study)
        assert len(frame) == len(whole), name
        assert any(f"{number + 1} record(s) could not be read" in note for note in frame.attrs["notes"]), name
    assert main([str(study)]) == 0
    said = capsys.readouterr().out
    assert f"{len(bad)} record(s) could not be read and are left out: {bad[0]}: factors must be" in said


def test_indexes_and_pictures_that_are_damaged_or_huge_cost_only_themselves(study):
    folders = sorted(file.parent / "samples" for file in study.glob("*/record.json"))
    (folders[0] / "index.jsonl").write_text('[1]\n"x"\n{"file": 3}\n{"file": "00000.png", "seed": [1]}\n{"file":\n')
    header = bytearray((folders[1] / "00000.png").read_bytes())
    header[16:24] = (30_000).to_bytes(4, "big") * 2  # 900 megapixels in a few bytes
    (folders[1] / "00000.png").write_bytes(header)
    assert data_uri(folders[1] / "00000.png", 64) is None
    (folders[2] / "index.jsonl").write_bytes(b"\xff\xfe")
    assert main([str(study), "--quiet"]) == 0


def test_a_map_that_unpacks_to_gigabytes_is_not_unpacked(study):
    file = sorted(study.glob("*/noise_difference.npz"))[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("map.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (4096, 2048)})
        for _ in range(32):
            stream.write(bytes(1 << 20))
    assert main([str(study), "--quiet"]) == 0


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", '=HYPERLINK("http://x")'])
def test_no_cell_of_a_table_is_a_formula(tmp_path, text):
    frame = pd.DataFrame({"level": [text, "-0.5", "a"], "score": [1.0, -2.0, 3.0], text: [0, 0, 0]})
    make_table("t", "caption", frame, {"level": Column("level")}, tmp_path)
    read = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert list(read["level"]) == [f"'{text}", "-0.5", "a"]
    assert list(read["score"]) == ["1.0", "-2.0", "3.0"]
    assert read.columns[2] == f"'{text}"


def test_the_test_above_can_see_pictures(study):
    """The picture of a run is on the page, in the form that the tests look for."""
    assert main([str(study), "--quiet"]) == 0
    uri = shown(sorted(study.glob("*/samples/00000.png"))[0])
    assert base64.b64decode(uri.partition(",")[2]).startswith(b"RIFF")
    assert uri[30:] in (study / "report" / "index.html").read_text()
