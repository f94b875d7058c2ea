"""Nothing that a received study names runs, is looked up in the environment, or is read outside its folder."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from sdpet.commands.evaluate_runs import changed, evaluate_again
from sdpet.files import inside, read_json, read_json_lines, read_yaml, require_trust
from sdpet.files.trust import trusted_file
from sdpet.runs import stored_config
from sdpet.runs.stored import untrusted_config

ROOT = Path(__file__).parent.parent.parent
RELEASED = ROOT / "tests" / "data" / "released" / "single"


class Marks:
    """Leaves a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


@pytest.fixture
def received(tmp_path):
    """The folder of a run of another person, and a function that changes its config."""
    folder = tmp_path / "study" / RELEASED.name
    shutil.copytree(RELEASED, folder)

    def change(**groups):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for group, values in groups.items():
            config[group] = {**config[group], **values}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return folder

    return change


@pytest.fixture(autouse=True)
def no_trusted_names(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def again(folder: Path, *overrides: str):
    asked = [f"run={folder}", "quiet=true", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", asked), asked


def hostile(tmp_path: Path) -> dict[str, dict]:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    with (tmp_path / "evil.pkl").open("wb") as file:
        pickle.dump(Marks(tmp_path / "canary"), file)
    evil = str(tmp_path / "evil.pkl")
    return {
        "builtins.open": {"file": str(canary), "mode": "w"},
        "pandas.read_pickle": {"filepath_or_buffer": evil},
        "numpy.load": {"file": evil, "allow_pickle": True},
        "torch.load": {"f": evil, "weights_only": False},
        "sdpet.files.trust.os.truncate": {"path": str(canary), "length": 0},
    }


@pytest.mark.parametrize("name", [
    "builtins.open", "pandas.read_pickle", "numpy.load", "torch.load", "sdpet.files.trust.os.truncate",
])  # fmt: skip
@pytest.mark.parametrize("key", ["scorer", "features", "similarity"])
def test_code_that_a_config_names_does_not_run(received, tmp_path, name, key):
    item = {"_target_": name, **hostile(tmp_path)[name]}
    folder = received(eval={key: {"mine": item} if key == "similarity" else item})
    with pytest.raises(ValueError, match=r"config.yaml names .*not part of sdpet.*trust=true"):
        evaluate_again(*again(folder))
    with pytest.raises(ValueError, match=name):
        stored_config(folder)
    assert (tmp_path / "canary").read_text() == "alive"


def test_code_below_an_argument_of_a_scorer_counts_as_well(received):
    folder = received(eval={"scorer": {"_target_": "lab-clip", "folder": {"_target_": "builtins.open", "file": "x"}}})
    with pytest.raises(ValueError, match=r"builtins\.open"):
        evaluate_again(*again(folder))


def test_the_users_word_counts(received):
    folder = received(eval={"scorer": {"_target_": "mine.scorers.Mine"}})
    assert changed(folder, *again(folder, "trust=true")).eval.scorers["scorer"].target == "mine.scorers.Mine"
    assert stored_config(folder, trust=True).eval.scorers["scorer"].target == "mine.scorers.Mine"
    typed = again(folder, "eval.scorer._target_=mine.scorers.Mine")
    assert changed(folder, *typed).eval.scorers["scorer"].target == "mine.scorers.Mine"
    replaced = again(folder, "eval=lab")
    assert changed(folder, *replaced).eval.scorers["scorer"].target == "lab-clip"
    with pytest.raises(ValueError, match="trust must be true or false"):
        changed(folder, *again(folder, "trust=perhaps"))


@pytest.mark.parametrize(
    "lines, trusted", [("mine\n", True), ("mine.scorers.Mine  # ours\n", True), ("min\n# mine\n", False), ("", False)]
)
def test_names_in_the_users_file_count_with_what_lies_below(lines, trusted):
    trusted_file().parent.mkdir(parents=True)
    trusted_file().write_text(lines)
    if trusted:
        require_trust("mine.scorers.Mine", "config.yaml")
    else:
        with pytest.raises(ValueError, match=str(trusted_file())):
            require_trust("mine.scorers.Mine", "config.yaml")


def test_a_stored_config_is_not_resolved(received, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = received(data={"prompt": "a photo of a sks ${oc.env:HF_TOKEN}"})
    with pytest.raises(ValueError, match=r"plain values") as said:
        evaluate_again(*again(folder))
    assert "secret" not in str(said.value)
    with pytest.raises(ValueError, match="plain values"):
        untrusted_config(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "a/../../secret.png", "C:\\x.png", "", None, ["x"]])
def test_paths_of_an_index_stay_inside_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match=r"index\.jsonl names"):
        inside(tmp_path, name, "index.jsonl")


def test_a_link_that_leads_out_of_the_folder_is_outside(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "samples" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="not inside"):
        inside(tmp_path / "samples", "0.png", "index.jsonl")
    assert inside(tmp_path / "samples", "sub/1.png", "index.jsonl") == tmp_path / "samples" / "sub" / "1.png"


@pytest.mark.parametrize(
    "text, said",
    [
        ("[" * 200_000, "deep"),
        ("[" * 100 + "]" * 100, "levels deep"),
        (f'{{"n": {"9" * 400}}}', "40 digits"),
        ('{"a": ', "JSON"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_json_is_read_within_limits(tmp_path, text, said):
    file = tmp_path / "record.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        read_json(file)


def test_other_limits(tmp_path):
    (tmp_path / "large.json").write_text(json.dumps("x" * 1000))
    with pytest.raises(ValueError, match="larger"):
        read_json(tmp_path / "large.json", most=100)
    with pytest.raises(ValueError, match="regular file"):
        read_json(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing.json")
    levels = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (tmp_path / "bomb.yaml").write_text(f"a: &a [x]\n{levels}\n")
    with pytest.raises(ValueError, match="values"):
        read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "circle.yaml").write_text("a: &a [*a]\n")
    with pytest.raises(ValueError, match="deep"):
        read_yaml(tmp_path / "circle.yaml")
    (tmp_path / "lines").write_text('\ufeff{"a": 1}\n\n{"b"\n[2]\n')
    lines = dict(read_json_lines(tmp_path / "lines"))
    assert lines[1] == {"a": 1} and isinstance(lines[3], ValueError) and lines[4] == [2]
