"""The dashboard at W&B as it would be sent, and the W&B run that holds a report; no server is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import write_study

from analysis.dashboard import CHART, HEATMAP, TABLE, log_report, main, report, workspace
from analysis.report import write_report
from analysis.report.study import read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "placement"
    tried = ["attn2o-ffni", "ffni-ffni", "ffni-transo", "attn1i-ffni"]
    write_study(folder, tried, seeds=[0, 1], samples=0)
    return read_study(folder), write_report(folder)


def test_the_workspace_shows_the_factors_and_only_this_study(study):
    """As W&B's own model of it, which is what a server would get."""
    board = workspace(study[0], "me", "adapters")
    sent = json.loads(board._to_model().model_dump_json(by_alias=True))
    content = sent["spec"]["section"]
    by_section = {s["name"]: s["panels"] for s in content["panelBankConfig"]["sections"]}
    assert list(by_section) == ["Factors", "Cost", "Samples", "Training"]
    kinds = [panel["viewType"] for panel in by_section["Factors"]]
    assert kinds == ["Parallel Coordinates Plot", "Vega2", "Bar Chart", "Bar Chart", "Bar Chart"]
    axes = [column["accessor"] for column in by_section["Factors"][0]["config"]["columns"]]
    assert (
        axes[:3] == [f"config:{name}.value" for name in ("placement", "din", "dout")] and axes[-1] == "summary:clip_i"
    )
    assert by_section["Factors"][1]["config"]["panelDefId"] == f"me/{CHART}"
    assert "sample_table" in json.dumps(by_section["Samples"])
    assert '"study' in json.dumps(content["runSets"]) and '"placement"' in json.dumps(content["runSets"])


def test_the_report_says_the_conclusion_and_holds_the_page(study):
    """The grids of panels name a server's runs, so only what they hold is turned into W&B's own model here."""
    import wandb_workspaces.reports.v2 as wr

    found = report(*study, "me", "adapters")
    assert [block.text for block in found.blocks if isinstance(block, wr.P)] == study[1].conclusion
    grids = [block for block in found.blocks if isinstance(block, wr.PanelGrid)]
    views = [panel._to_model().view_type for grid in grids for panel in grid.panels]
    assert views[:2] == ["Parallel Coordinates Plot", "Vega2"] and len(grids) == 4
    assert all(grid.runsets[0].filters == "Config('study') = 'placement'" for grid in grids)
    assert "report-placement" in found.blocks[-1]._to_model().model_dump_json()


def test_the_heatmap_reads_the_columns_that_the_report_run_holds(study, tmp_path):
    """Offline, read back by W&B's own tool: each field of the chart is a column of the table."""
    import wandb

    log_report(*study, entity=None, project="adapters", mode="offline")
    wandb.teardown()
    (file,) = (study[1].page.parent / "wandb").glob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["state"] == "finished"
    table = json.loads((file.parent / "files" / found["summary"][TABLE]["path"]).read_text())
    chart = workspace(study[0], "me", "adapters").sections[0].panels[1]
    assert set(chart.chart_fields.values()) <= set(table["columns"]) and len(table["data"]) == 4
    asked = {part.split("}")[0] for part in json.dumps(HEATMAP).split("${field:")[1:]}
    assert asked == set(chart.chart_fields)
    assert {"figures/heatmap", "figures/ranking", "tables/ranking", "report"} <= set(found["summary"])
    import analysis

    with pytest.raises(ValueError, match="holds no W&B run"):  # a report is no run of the study
        analysis.load_results(study[1].page.parent)


def test_without_an_account_it_says_so_and_sends_nothing(study, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = str(study[0].source)
    assert main([folder, "--entity", "me"]) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert main([folder, "--entity", "me", "--save"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: saving needs a W&B account") and said.err.count("\n") == 1
    assert main([str(Path(folder) / "nowhere"), "--entity", "me"]) == 1
