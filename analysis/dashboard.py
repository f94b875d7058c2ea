"""`python -m analysis.dashboard STUDY`: a study's workspace and report at W&B, as code.

The workspace shows the runs that logger=wandb has logged; the heatmap and the report come from one more W&B run, which
holds the tables, the figures and the page that `python -m analysis` has written. The heatmap is a Vega-Lite chart.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.files.command_parser import CommandParser

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    from analysis.report import Report
    from analysis.report.study import Study

EXAMPLE = """\
example:
  python -m analysis.dashboard outputs/placement --entity me
  python -m analysis.dashboard outputs/placement --entity me --save

"""
CHART = "sdpet-heatmap"
TABLE = "heatmap"  # its rows: input, output, mean score
# Vega-Lite; W&B puts the table's columns in the place of ${field:...}.
HEATMAP: dict[str, Any] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"name": "wandb"},
    "title": "${string:title}",
    "encoding": {
        "x": {"field": "${field:x}", "type": "nominal", "sort": None, "title": "input: where the adapter reads"},
        "y": {"field": "${field:y}", "type": "nominal", "sort": None, "title": "output: where it writes"},
    },
    "layer": [
        {
            "mark": "rect",
            "encoding": {
                "color": {"field": "${field:value}", "type": "quantitative", "scale": {"scheme": "viridis"}},
            },
        },
        {
            "mark": {"type": "text", "stroke": "white", "strokeWidth": 2.5, "strokeOpacity": 0.6},
            "encoding": {"text": {"field": "${field:value}", "type": "quantitative", "format": ".3f"}},
        },
        {
            "mark": "text",
            "encoding": {"text": {"field": "${field:value}", "type": "quantitative", "format": ".3f"}},
        },
    ],
}


def panels(study: Study, entity: str) -> dict[str, list[Any]]:
    """Panels by the section they stand in: the factors, the designs, the samples, the training."""
    import wandb_workspaces.reports.v2 as wr

    score, config = wr.SummaryMetric(study.metric), [wr.Config(factor) for factor in study.factors]
    others = [m for m in study.metrics if m != study.metric]
    axes: list[Any] = [*config, wr.Config("seed"), *(wr.SummaryMetric(m) for m in others), score]
    crossed = wr.ParallelCoordinatesPlot(
        title=f"{study.words.label} over the factors", columns=[wr.ParallelCoordinatesPlotColumn(axis) for axis in axes]
    )
    bars = [
        wr.BarPlot(title=f"{study.words.label} by {factor}", metrics=[score], groupby=wr.Config(factor),
                   groupby_aggfunc="mean", groupby_rangefunc="stderr", orientation="h", title_x=study.words.axis)
        for factor in study.factors
    ]  # fmt: skip
    cost = wr.ScatterPlot(
        title=f"{study.words.label} against size", x=wr.SummaryMetric("record.sizes.trainable_params"), y=score
    )
    grid = []
    if study.has_placements:
        heatmap = wr.CustomChart.from_table(
            TABLE, {"x": "input", "y": "output", "value": "mean"}, {"title": f"Mean {study.words.label}"}
        )
        heatmap.chart_name = f"{entity}/{CHART}"
        grid.append(heatmap)
    group = "placement" if study.has_placements else (study.factors or ["run_id"])[0]
    loss = wr.LinePlot(
        title="Loss", y=["loss"], groupby=wr.Config(group), groupby_aggfunc="mean", smoothing_factor=0.8,
        smoothing_type="exponential",
    )  # fmt: skip
    return {
        "Factors": [crossed, *grid, *bars],
        "Cost": [cost],
        "Samples": [wr.WeavePanelSummaryTable(table_name="sample_table"), wr.MediaBrowser(media_keys=["samples"])],
        "Training": [loss],
    }


def workspace(study: Study, entity: str, project: str) -> ws.Workspace:
    """The study's runs in a workspace of their own: only this study, and the scores pinned in the list of runs."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=name, panels=content, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=2, rows=2))
        for name, content in panels(study, entity).items()
    ]
    shown = [*(f"config:{factor}" for factor in study.factors), f"summary:{study.metric}", "summary:status"]
    runs = ws.RunsetSettings(filters=f"Config('study') = '{study.name}'", pinned_columns=shown)
    return ws.Workspace(entity=entity, project=project, name=f"{study.name} (sdpet)", sections=sections,
                        runset_settings=runs)  # fmt: skip


def report(study: Study, page: Report, entity: str, project: str) -> wr.Report:
    """The conclusion in words, the same panels, and the whole report as an attached file."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, name=study.name, filters=f"Config('study') = '{study.name}'")
    blocks: list[Any] = [wr.P(sentence) for sentence in page.conclusion]
    for name, content in panels(study, entity).items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=content)]
    attached = wr.WeaveBlockArtifact(entity, project, artifact_name(study), "files")
    blocks += [wr.H2("The report with every test, figure and table"), attached]
    title = f"Study {study.name}: {study.words.label} of {len(study.done)} runs"
    return wr.Report(entity=entity, project=project, title=title, description=page.conclusion[0], blocks=blocks)


def artifact_name(study: Study) -> str:
    return f"report-{''.join(c if c.isalnum() or c in '-_.' else '-' for c in study.name)}"


def log_report(study: Study, page: Report, entity: str | None, project: str, mode: str = "online") -> None:
    """One W&B run of the study's group with the report: tables as tables, figures as images, all of it as artifact."""
    import pandas as pd
    import wandb

    from analysis.runs.load_wandb import REPORT

    folder = page.page.parent
    settings = wandb.Settings(silent=True, console="off")
    own_id = hashlib.blake2b(f"report {study.name}".encode(), digest_size=8).hexdigest()
    run = wandb.init(
        entity=entity, project=project, mode=mode, group=study.name, job_type="analysis",  # type: ignore[arg-type]
        name=f"report of {study.name}", id=own_id,
        resume="allow", reinit="create_new", dir=str(folder.resolve()), settings=settings,
        config={REPORT: study.name, "study": study.name},
    )  # fmt: skip
    with run:
        for file in sorted((folder / "figures").glob("*.png")):
            run.log({f"figures/{file.stem}": wandb.Image(str(file))})
        for file in sorted((folder / "tables").glob("*.csv")):
            frame = pd.read_csv(file)
            if file.stem == TABLE and {"din", "dout"} <= set(frame):
                from analysis.report.words import PAPER_NAME

                frame = frame.assign(input=frame["din"].map(PAPER_NAME), output=frame["dout"].map(PAPER_NAME))
                frame = frame[["input", "output", "mean"]]
            run.log({TABLE if file.stem == TABLE else f"tables/{file.stem}": wandb.Table(dataframe=frame)})
        run.log({"report": wandb.Html(page.page.read_text(encoding="utf-8"), inject=False)})
        artifact = wandb.Artifact(
            artifact_name(study), type="report", metadata={"conclusion": " ".join(page.conclusion)}
        )
        for part in ("index.html", "figures", "tables"):
            path = folder / part
            (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path), name=part)
        run.log_artifact(artifact)


def parser() -> CommandParser:
    p = CommandParser(
        "python -m analysis.dashboard",
        example=EXAMPLE,
        description="Show a study at W&B: workspace, heatmap and report.",
    )
    p.add_argument("study", metavar="STUDY", help="a study's folder, whose runs were logged by logger=wandb")
    p.add_argument("--entity", required=True, help="whose project it is, a user or a team")
    p.add_argument("--project", default="sdpet", help="the project the runs were logged to (default: sdpet)")
    p.add_argument("--metric", help="score to show (default: that of the report)")
    p.add_argument("--save", action="store_true", help="save it at W&B; without it nothing is sent, only told")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 with one sentence on stderr."""
    asked = parser().parse_args(arguments)
    try:
        return _run(asked)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(asked: argparse.Namespace) -> int:
    import importlib.util

    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError("the dashboard needs the package wandb-workspaces: pip install wandb-workspaces.")
    if asked.save:
        from sdpet.config.wandb_account import has_account

        if not has_account():
            raise ValueError("saving needs a W&B account: wandb login first, or leave out --save.")
    from analysis.report import write_report
    from analysis.report.study import read_study

    study = read_study(asked.study, asked.metric)
    page = write_report(asked.study, asked.metric)
    board = workspace(study, asked.entity, asked.project)
    attached = report(study, page, asked.entity, asked.project)
    if not asked.save:
        print(f"Workspace {board.name!r} in {asked.entity}/{asked.project}:")
        for section in board.sections:
            print(f"  {section.name}: {', '.join(_describe(panel) for panel in section.panels)}")
        print(f"Report {attached.title!r}, with {Path(page.page)} attached.\nNothing was sent; --save saves it at W&B.")
        return 0
    import wandb

    log_report(study, page, asked.entity, asked.project)
    wandb.Api().create_custom_chart(asked.entity, CHART, "sdpet: heatmap of placements", "vega2", "private", HEATMAP)
    board.save()
    attached.save()
    print(f"Workspace: {board.url}\nReport: {attached.url}")
    return 0


def _describe(panel: Any) -> str:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in type(panel).__name__).strip()
    title = getattr(panel, "title", None) or getattr(panel, "table_name", None) or getattr(panel, "chart_name", None)
    return f"{words} ({title})" if title else words


if __name__ == "__main__":
    sys.exit(main())
