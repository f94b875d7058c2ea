"""What the docs name exists, and readers are shown the faces of packages, never the files inside them."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "mkdocs.yml").exists())
FACES = {
    "sdpet",
    *(f"sdpet.{name}" for name in ("adapters", "models", "methods", "sampling", "scoring")),
    *(f"sdpet.{name}" for name in ("tasks", "training", "runs", "study")),
    "analysis",
}
REFERENCE = ROOT / "docs" / "reference"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [*PAGES, *sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "bench").glob("*.py"))]


def listed():
    return [name for page in REFERENCE.glob("*.md") for name in re.findall(r"(?m)^::: (\S+)", page.read_text())]


def face_of(name):
    """The names a module offers: those in `__all__`, and where there is none those that it defines itself."""
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    return getattr(module, "__all__", own)


def test_reference_lists_every_face_and_only_names_that_exist():
    whole = {name for name in listed() if name in FACES}
    single = [name.rpartition(".") for name in listed() if name not in FACES]
    assert whole == FACES - {"sdpet"}  # the few names of sdpet are a table on the first page
    assert {module for module, _, _ in single} <= {"analysis", "analysis.report"}
    assert [name for module, _, name in single if not hasattr(importlib.import_module(module), name)] == []


def test_reference_of_analysis_and_of_sdpet_is_complete():
    analysis, sdpet = importlib.import_module("analysis"), importlib.import_module("sdpet")
    shown = [name.removeprefix("analysis.") for name in listed() if re.fullmatch(r"analysis\.\w+", name)]
    assert sorted(shown) == sorted(analysis.__all__)
    links = re.findall(r"\[`(\w+)`\]\[sdpet\.adapters\.\1\]", (REFERENCE / "index.md").read_text())
    assert sorted(links) == sorted(set(sdpet.__all__) - {"__version__"})


@pytest.mark.parametrize("face", sorted(FACES - {"sdpet", "analysis"}))
def test_page_of_a_package_shows_the_names_of_its_face(face, monkeypatch):
    import griffe

    monkeypatch.syspath_prepend(ROOT / "docs")
    extension = griffe.load_extensions(importlib.import_module("griffe_extension").Reference)
    package = griffe.load(face, extensions=extension, search_paths=[ROOT], resolve_aliases=True)
    shown = {name for name, member in package.members.items() if member.is_public and not member.is_module}
    offered = set(importlib.import_module(face).__all__)
    assert shown >= offered
    assert all(package.members[name].has_docstring for name in offered)  # mkdocstrings leaves out what has none


def code(path):
    """The Python code in a file: the file, a notebook's cells, or the blocks of a page."""
    text = path.read_text()
    if path.suffix == ".py":
        return [text]
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return re.findall(r"(?ms)^```python\n(.*?)^```", text)


def imported(text):
    """Pairs of a module and the name that is taken from it (None: the module itself), of sdpet and analysis."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        else:
            found = []
        yield from ((module, name) for module, name in found if module.split(".")[0] in ("sdpet", "analysis"))


def is_open(module, name):
    return module.count(".") < 2 and (name is None or name in face_of(module))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_import_from_faces(path):
    found = [pair for text in code(path) for pair in imported(text)]
    assert [pair for pair in found if not is_open(*pair)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_functions_that_pages_name_exist(path):
    text = path.read_text()
    files = re.findall(r"`((?:sdpet|analysis|conf|sweeps|docs|tests|bench|notebooks|hydra_plugins)/[\w./-]*)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    functions = re.findall(r"`analysis\.(\w+)[`(]", text)
    assert [name for name in functions if name not in face_of("analysis")] == []


def commands():
    """What pages tell readers to type: (page, name of the config in conf/, overrides), each once."""
    seen = set()
    for page in PAGES:
        for block in re.findall(r"(?ms)^```\w*\n(.*?)^```", page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:python (train|evaluate)\.py|sdpet doctor)( .*)?$", line)
                words = shlex.split(found[2] or "", comments=True) if found else []
                overrides = tuple(word for word in words if word not in ("-m", "--dry-run", "--register"))
                name = "evaluate" if found and found[1] == "evaluate" else "config"
                if found and (name, overrides) not in seen:
                    seen.add((name, overrides))
                    yield pytest.param(name, overrides, id=f"{page.name}: {' '.join(words)}")


def levels(override):
    """What an override of a sweep gives to its runs, one by one; an override of a single value as it is."""
    key = override.input_line.partition("=")[0]
    if not override.is_sweep_override():
        return [override.input_line]
    return [f"{key}={level}" for level in override.sweep_string_iterator()]


@pytest.mark.parametrize(("name", "overrides"), commands())
def test_commands_that_pages_show_have_keys_and_levels_that_exist(name, overrides):
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices = [levels(override) for override in OverridesParser.create().parse_overrides(list(overrides))]
    first = [lines[0] for lines in choices]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(name, first, return_hydra_config=True)
        for place, lines in enumerate(choices):
            for line in lines[1:]:
                compose(name, [*first[:place], line, *first[place + 1 :]], return_hydra_config=True)


def test_numbers_of_parameters_in_the_readme_are_those_of_the_lab():
    from sdpet.commands.adapter_counts import counts
    from sdpet.models import empty_denoiser

    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"([\d,]+) in transformer blocks \(([\d,]+) at `(\S+)`\), but ([\d,]+) to ([\d,]+) in ResBlocks", text
    )
    assert said, "the README says how many parameters the placements have"
    usual, other, where, least, most = said.groups()
    found = {
        row.placement: f"{row.parameters:,}"
        for row in counts(empty_denoiser(str(ROOT / "sdpet/lab/pipeline")), params=24000)
    }
    blocks = sorted(count for placement, count in found.items() if placement.startswith("res"))
    others = {placement: count for placement, count in found.items() if not placement.startswith("res")}
    assert (blocks[0], blocks[-1]) == (least, most) and others.pop(where) == other and set(others.values()) == {usual}


def test_the_readme_counts_the_studies_that_are_ready():
    said = re.search(r"(\d+) studies are ready", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert said and int(said[1]) == len(list((ROOT / "sweeps").glob("*.yaml")))


def test_the_citation_names_what_the_package_says_of_itself():
    import tomllib

    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (package["version"], package["license"])
    assert cited["authors"] == package["authors"]
    assert all(cited[key] for key in ("cff-version", "message", "title", "abstract"))
    assert {one["doi"] for one in cited["references"]} == {"10.48550/arXiv.2303.18181"}
