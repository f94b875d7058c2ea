"""Notebooks run from top to bottom, as a user runs them, and are stored without outputs."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SAID = {"02_analyse_a_study": "the best is among these 2"}  # words that the outputs must hold
SHORT = ("trainer.steps=150", "trainer.steps=10")  # of the study in the first notebook
COPIES = FOLDER.parent / "docs" / "notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    cells = cells_of(path)
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_copy_in_the_docs_shows_this_notebook(path):
    copy = (COPIES / f"{path.stem}.md").read_text(encoding="utf-8")
    shown = [block.strip() for block in re.findall(r"(?ms)^```python\n(.*?)^```", copy)]
    assert shown == ["".join(cell["source"]).strip() for cell in cells_of(path)], "`make notebooks` writes the copies"
    pictures = re.findall(r"!\[\w+\]\((\S+)\)", copy)
    assert pictures and all((COPIES / picture).is_file() for picture in pictures)
    assert "..." not in re.sub(r"(?s)```python.*?```", "", copy).replace('outputs/..."', ""), "an output is cut"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    assert SAID.get(path.stem, "") in run(path, tmp_path, monkeypatch, short=True)


@pytest.mark.slow
def test_the_first_notebook_shows_a_study_that_finds_something(tmp_path, monkeypatch):
    assert "The placement matters for clip_i" in run(NOTEBOOKS[0], tmp_path, monkeypatch, short=False)


def cells_of(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(path, tmp_path, monkeypatch, short):
    """The outputs of a notebook as JSON; `short` trains for a few steps only."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # the kernel and what it starts see this checkout
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"../outputs"', repr(str(tmp_path)))
        if short and cell.cell_type == "code":
            cell.source = cell.source.replace(*SHORT)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert '"output_type": "error"' not in outputs
    return " ".join(outputs.replace("\\n", " ").split())
