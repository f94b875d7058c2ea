"""Whatever is typed or received is taken or refused with one sentence: cases composed by Hypothesis.

The suite draws a few hundred cases from a fixed seed; `make test-slow` draws thousands.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from functools import cache
from pathlib import Path

import pytest
from fake_study import write_study
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save
from study_tools import ROOT

import analysis
from analysis.report.samples import data_uri, sample_index
from sdpet.commands.errors import sentence
from sdpet.config import RunConfig, fleet_key, run_id, validate
from sdpet.config.schema import RULES
from sdpet.files import read_json_lines
from sdpet.files.folders import captioned_files, counted_files
from sdpet.files.hashing import unchanging
from sdpet.models.compvis import scan
from sdpet.models.compvis.load import read_weights
from sdpet.runs import Record
from sdpet.runs.verify import verified_text, verify
from sdpet.study import Composer, status_text, study_status

RELEASED = ROOT / "tests" / "data" / "released" / "single"
SMALL = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def few(cases: int):
    return settings(max_examples=cases, **SMALL)


def one_sentence(text: str) -> None:
    assert text.strip() and len(text) < 2000, text
    assert "Traceback" not in text and "\n" not in text, text


# ---- overrides of the command line, from the schema

KEYS = [f"{group}.{key}".lstrip(".") for group, rules in RULES.items() for key in rules]
GROUPS = [(folder.name, file.stem) for folder in sorted((ROOT / "conf").iterdir()) if folder.is_dir()
          for file in sorted(folder.glob("*.yaml")) if folder.name in RULES]  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([10**9, 10**12, 2**31, 2**63, 2**64, 10**23, 10**400, -(10**23)]),
    st.sampled_from(["1e5", "1e23", "1e30", "1e300", "1e999", "-1e400", "inf", "-inf", "nan", "0.5", "-0.0", "1e-300"]),
)
WORDS = st.sampled_from(
    ["null", "true", "false", "''", "' '", "cpu", "cuda", "cuda:x", "cuda:0", "cuda:99999999999", "lab", "dpm",
     "a/b", "..", "/", "~", "'a\\0b'", "'\\ud800'", "x" * 300, "'${seed}'", "${nothing}", "${oc.env:NOTHING_SET}",
     "attn2o", "ffni", "'{prompt}'", "lora", "constant", "none", "\u200b", "é"]
)  # fmt: skip
PLAIN = st.one_of(NUMBERS, WORDS).map(str)
VALUES = st.one_of(
    PLAIN,
    st.lists(PLAIN, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    st.dictionaries(st.sampled_from(["a", "_target_", "lr", "steps", "0"]), PLAIN, max_size=2).map(
        lambda items: "{" + ",".join(f"{key}:{value}" for key, value in items.items()) + "}"
    ),
)
SETS = st.tuples(st.sampled_from(["", "", "", "+", "++"]), st.sampled_from(KEYS), VALUES).map(
    lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
)
DELETES = st.one_of(st.sampled_from(KEYS).map("~{}".format), st.sampled_from(sorted(RULES)[1:]).map("~{}".format))
CHOICES = st.sampled_from(GROUPS).map("=".join)
UNKNOWN = st.sampled_from(["sed=1", "trainer.step=3", "+mine=1", "unet=nothing", "=", "a", "seed", "seed="])
OVERRIDES = st.lists(st.one_of(SETS, SETS, SETS, DELETES, CHOICES, UNKNOWN), min_size=1, max_size=3)


@cache
def composer() -> Composer:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    return Composer(loader, master)


def is_possible(config: RunConfig) -> None:
    """What is taken is within what some machine can do."""
    trainer, sampler = config.trainer, config.sampler
    assert 0 <= config.seed < 2**63
    assert 1 <= trainer.steps <= 10**9 and 1 <= trainer.batch_size <= 10**6 and 1 <= trainer.threads <= 1024
    assert trainer.device == "cpu" or trainer.device.removeprefix("cuda").removeprefix(":").isdigit() \
        or trainer.device == "cuda"  # fmt: skip
    assert all(map(math.isfinite, (trainer.lr, trainer.weight_decay, sampler.guidance, config.unet.guidance)))
    assert len(run_id(config)) == 12 and fleet_key(config)


def overrides_are_taken_or_refused(overrides: list[str], out: Path) -> None:
    try:
        config = validate(composer()([f"output_root={out}", *overrides]))
    except (ValueError, OSError, HydraException) as error:
        one_sentence(sentence(error))
        return
    except OmegaConfBaseException as error:
        raise AssertionError(f"{overrides}: {error!r}") from error
    is_possible(config)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@given(OVERRIDES)
@few(150)
def test_overrides(out, overrides):
    with unchanging():
        overrides_are_taken_or_refused(overrides, out)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@given(OVERRIDES)
@few(2000)
def test_two_thousand_overrides(out, overrides):
    with unchanging():
        overrides_are_taken_or_refused(overrides, out)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_deleted_with_one_sentence_or_a_run(out, key):
    with unchanging():
        overrides_are_taken_or_refused([f"~{key}"], out)


# ---- records

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, 1e308]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORD = json.loads((RELEASED / "record.json").read_text())


def paths(content, path=()):
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


RECORD_PATHS = [path for path in paths(RECORD) if (path and path[0] != "loss") or path[:2] == ("loss", 0)]


def changed(content, path, value):
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = changed(content[path[0]], path[1:], value)
    return copy


@st.composite
def records(draw):
    content = RECORD
    for _ in range(draw(st.integers(1, 3))):
        try:
            content = changed(content, draw(st.sampled_from(RECORD_PATHS)), draw(JSON))
        except (KeyError, TypeError, IndexError):  # an earlier change took the place away
            break
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("fuzz") / "s", ["attn2o-ffni", "ffni-ffni"], seeds=(0, 1), samples=1)


def one_bad_record(study, content, whole_report=False):
    folder = study / "received"
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(content))
    try:
        record = Record.read(folder)
    except ValueError as error:
        one_sentence(str(error))
    else:
        assert record.status and isinstance(record.factors, dict)
        record.changed(folder)
    frame = analysis.load_results(study, status=None, mixed_protocols="flag")
    assert len(frame) >= 4
    one_sentence(status_text(study_status(study)).replace("\n", " "))
    verified_text(verify(study))
    if whole_report:
        from analysis.report import write_report

        try:
            write_report(study, out=study.parent / "report")
        except ValueError as error:  # a record that says it was scored otherwise: not to be compared, as it should be
            assert str(error).startswith("Runs of one task were scored in 2 different ways")
            one_sentence(str(error))


@given(records())
@few(60)
def test_records(study, content):
    one_bad_record(study, content)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@given(records())
@few(1000)
def test_a_thousand_records(study, content):
    one_bad_record(study, content)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@given(records())
@few(60)
def test_sixty_reports(study, content):
    one_bad_record(study, content, whole_report=True)


# ---- indexes, captions, checkpoints

NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["0.png", "../0.png", "/etc/passwd", "a/../../b.png", "x" * 5000, "\0", "."]),
    JSON,
)
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional={"file": NAMES, "seed": JSON, "role": JSON, "prompt": JSON}).map(json.dumps),
        JSON.map(json.dumps),
        st.text(max_size=20),
    ),
    max_size=4,
)


@given(ROWS)
@few(200)
def test_indexes(study, rows):
    folder = study.parent / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "0.png").write_bytes(b"no picture")
    (folder / "index.jsonl").write_text("\n".join(rows), encoding="utf-8", errors="surrogatepass")
    for role in ("subject", "class"):
        for file in sample_index(folder, 0, role).values():
            assert file.resolve().is_relative_to(folder.resolve())
            assert data_uri(file, 32) is None
    try:
        list(read_json_lines(folder / "index.jsonl"))
    except ValueError as error:
        one_sentence(str(error))


CAPTIONS = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.fixed_dictionaries({}, optional={"file_name": NAMES, "text": JSON, "caption": JSON}).map(
        lambda row: json.dumps(row).encode()
    ),
)


@given(st.sampled_from(["0.txt", "metadata.jsonl", "metadata.csv"]), CAPTIONS)
@few(300)
def test_captions(study, name, content):
    folder = study.parent / "captions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "0.png").write_bytes(b"no picture")
    (folder / name).write_bytes(content)
    try:
        found = captioned_files(folder)
        counted_files(folder, True)
    except ValueError as error:
        one_sentence(str(error))
        return
    for file, caption in found.items():
        assert file.resolve().is_relative_to(folder.resolve())
        assert caption is None or (caption.strip() and "\0" not in caption and not caption.startswith("\ufeff"))


def whole() -> bytes:
    import torch

    return save(
        {f"{prefix}weight": torch.zeros(2, 2) for prefix in (scan.UNET, scan.VAE, "cond_stage_model.transformer.")}
    )


@st.composite
def checkpoints(draw):
    content = bytearray(whole())
    kind = draw(st.sampled_from(["flip", "cut", "header", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=60))
    if kind == "header":
        header = json.dumps(draw(JSON)).encode()
        return struct.pack("<Q", draw(st.sampled_from([len(header), 0, 2**63, len(header) + 9]))) + header + bytes(48)
    if kind == "cut":
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@given(checkpoints(), st.sampled_from([".safetensors", ".ckpt"]))
@few(200)
def test_checkpoints(study, content, ending):
    file = study.parent / f"model{ending}"
    file.write_bytes(content)
    scan._contents.cache_clear()  # two files may be written within one tick of the clock
    for read in (scan.contents, read_weights):
        try:
            read(file)
        except ValueError as error:
            one_sentence(str(error))
