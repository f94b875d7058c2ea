"""The report says what the runs say: planted effects are found, numbers are the analysis', the page stands alone."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import planted_share, write_base, write_full_tuning, write_study
from PIL import Image

import analysis
from analysis.report import Report, write_report
from analysis.report.pictures import WALL_ROWS
from analysis.report.samples import columns_for, data_uri, side_for
from analysis.report.sections.details import reproduce_section
from analysis.report.study import read_study
from sdpet.adapters import PLACEMENTS
from sdpet.study.manifest import write_manifest

ROOT = Path(__file__).parents[2]
HEATMAP = ROOT / "analysis" / "data" / "xiang2023_dreambooth_heatmap.csv"


class Page(HTMLParser):
    """Text, addresses and ids of a page, and whether its tags nest."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(value or "")
            elif name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_how_to_reproduce_is_the_command_that_was_given(tmp_path):
    folder = tmp_path / "gates"
    write_study(folder)
    study = read_study(folder)
    section = " ".join(block.text for block in reproduce_section(study, "python -m analysis gates").blocks)
    assert (
        "python train.py -m +sweeps=placement     # trains" in section and "use the command that started it" in section
    )
    given = ["../../train.py", "--config-dir", "my conf", "-m", "+sweeps=gates", "seed=0,1"]
    write_manifest(folder, [], given)
    section = " ".join(block.text for block in reproduce_section(study, "python -m analysis gates").blocks)
    assert "python ../../train.py --config-dir 'my conf' -m +sweeps=gates seed=0,1     # trains" in section
    assert "use the command that started it" not in section


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, Page]:
    """A whole placement study of which one run diverged and one failed, and its report."""
    folder = tmp_path_factory.mktemp("outputs") / "placement"
    write_study(folder, diverged=[("reso-reso", 1)], failed=[("attn1o-ffni", 2)])
    write_base(folder)
    report = write_report(folder)
    return folder, report, Page(report.page.read_text(encoding="utf-8"))


def cells(page: Page, kind: str) -> int:
    return len([i for i in page.ids if i.startswith(f"heatmap-{kind}-")])


def test_conclusion_names_the_planted_best_and_stands_first(study: tuple[Path, Report, Page]) -> None:
    _, report, page = study
    best = max(PLACEMENTS, key=planted_share)
    assert best == "attn2o-ffni"
    assert best in report.conclusion[0] or "CA_out → FFN_in" in report.conclusion[0]
    assert re.search(r"\d\.\d", report.conclusion[0]), "the first sentence has no number"
    assert page.words.index(re.sub(r"\s+", " ", report.conclusion[0])) < page.words.index(
        "Where to read and where to write"
    )


def test_the_first_screen_is_one_sentence_and_three_figures(study: tuple[Path, Report, Page]) -> None:
    """Numbers of the analysis, an interval beside the effect, and no wall of brackets."""
    folder, report, _ = study
    runs = analysis.load_results(folder)
    assert report.headline == "The placement matters for CLIP-I; the best of the 20 placements is among 3."
    html = report.page.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    screen = html[html.index("<h1>") : html.index('<details class="detail"><summary>The whole')]
    assert html.index('<ul class="facts">') < html.index('id="fig-heatmap"') < html.index('id="fig-best"')
    found = [re.sub(r"<[^>]+>", " ", part) for part in re.findall(r"<li>(.*?)</li>", screen, re.S)]
    table = analysis.verdicts(runs, "clip_i", ["placement"], "seed").loc["placement"]
    low, high = 100 * table[["omega2_low", "omega2_high"]]
    assert len(found) == 3 and f"{100 * table['omega2_partial']:.0f} %" in found[0]
    assert f"{low:.0f} to {high:.0f}%, 90% interval" in found[0] and "n = 58" in found[0]
    assert "3 of 20" in found[1].replace("  ", " ") and "with 95% confidence" in found[1]
    gain = (runs["clip_i"] - runs["clip_i_floor"]).groupby(runs["placement"]).mean()
    way = (runs["clip_i_ceiling"] - runs["clip_i_floor"]).mean()
    assert f"{100 * gain['attn2o-ffni'] / way:.0f} %" in found[2] and "expect" in found[2]
    assert "F(" not in screen and "p =" not in screen and "[" not in re.sub(r"<[^>]+>", "", screen)


def test_names_that_would_be_misread_are_told_apart():
    from analysis.report.first_screen import _factor
    from analysis.report.words import metric_words

    assert [_factor(name) for name in ("where", "din", "placement")] == [
        '"where"',
        "the input position",
        "the placement",
    ]
    assert metric_words("shape_fid_infinity").label == "FID (on the features of SHAPE, for infinitely many samples)"
    assert metric_words("shape_fid").label == "FID (on the features of SHAPE)"
    assert metric_words("fid_infinity").label == "FID (for infinitely many samples)"


@pytest.mark.usefixtures("undrawn")
def test_a_headline_claims_no_more_than_its_tests(tmp_path: Path) -> None:
    """Scores of noise alone: nothing matters, and the page does not say that it does not."""
    write_study(tmp_path, ["attn2o-ffni", "ffni-ffni", "attn1i-ffni"], share=lambda f: 0.5, samples=0)
    report = write_report(tmp_path)
    assert report.headline == "Whether the placement matters for CLIP-I is open."
    words = Page(report.page.read_text(encoding="utf-8")).words
    assert "not shown to matter" in words and "no test tells them apart, so their order may be chance" in words


def test_every_score_has_a_heatmap_of_its_own_means(study: tuple[Path, Report, Page]) -> None:
    folder, report, page = study
    runs = analysis.load_results(folder)
    for name in ("heatmap", "heatmap-clip_t", "heatmap-prior_drift"):
        drawn = pd.read_csv(report.page.parent / "figures" / f"{name}.csv").set_index("placement")
        metric = name.partition("-")[2] or "clip_i"
        if metric != "clip_i":  # those of the page's own score are adjusted for seeds, as in the ranking
            expected = runs.groupby("placement")[metric].mean()
            assert drawn["mean"][expected.index].to_numpy() == pytest.approx(expected.to_numpy())
        assert len([i for i in page.ids if i.startswith(f"{name}-cell-")]) == 20
    html = report.page.read_text(encoding="utf-8")
    cell = html[html.index('id="heatmap-cell-4-3"') :]
    tip = cell[cell.index("<title>") : cell.index("</title>")]
    assert "CA_out → FFN_in" in tip and "95% interval" in tip and "n = 3 runs: " in tip


def test_figures_of_a_paper_are_as_wide_as_its_columns(tmp_path: Path) -> None:
    write_study(tmp_path, ["attn2o-ffni", "ffni-ffni", "attn1i-ffni"], seeds=[0, 1], samples=0)
    report = write_report(tmp_path, style="paper")
    figures = report.page.parent / "figures"
    assert report.page == tmp_path / "report-paper" / "index.html"
    widths = {}
    for file in figures.glob("*.pdf"):
        content = file.read_bytes()
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
        assert box is not None and b"/Type3" not in content
        widths[file.stem] = float(box[1]) / 72
    assert set(widths) == {f.stem for f in figures.glob("*.svg")} and len(widths) > 4
    assert set(widths.values()) <= {3.25, 6.75} and widths["ranking"] == 3.25 and widths["heatmap"] == 6.75
    assert b"STIX" in (figures / "ranking.pdf").read_bytes()
    with pytest.raises(ValueError, match="screen, paper"):
        write_report(tmp_path, style="poster")


def test_heatmap_has_every_cell_once(study: tuple[Path, Report, Page]) -> None:
    _, _, page = study
    assert (cells(page, "cell"), cells(page, "inadmissible"), cells(page, "empty")) == (20, 70 - 20, 0)
    assert {"SA_in", "CA_out", "Trans_out", "Res_out"} <= set(page.words.split())


def test_numbers_are_those_of_the_analysis(study: tuple[Path, Report, Page]) -> None:
    folder, report, page = study
    runs = analysis.load_results(folder)
    alone = analysis.oneway(runs, "clip_i", ["din", "dout", "placement"], block="seed")
    together = analysis.anova(runs, "clip_i", ["din", "dout"], 2, block="seed")
    tables = report.page.parent / "tables"
    pd.testing.assert_series_equal(
        pd.read_csv(tables / "oneway.csv").set_index("factor")["F"].sort_index(), alone["F"].sort_index(),
        check_names=False, check_index_type=False,
    )  # fmt: skip
    for F in [*alone["F"], *together.loc[["din", "dout"], "F"]]:
        assert f"{F:.2f}" in page.words
    assert together.loc["din", "df"] == 7 and "din has 7 of 9 degrees of freedom" in page.words
    means = analysis.marginal_means(runs, "clip_i", "placement", block="seed")["mean"].sort_values(ascending=False)
    ranking = pd.read_csv(tables / "ranking.csv")
    assert list(ranking["design"]) == list(means.index)
    assert ranking["mean"].to_numpy() == pytest.approx(means.to_numpy(), abs=1e-12)
    for score in means:
        assert page.words.count(f"{score:.3f}") >= 3, "heatmap, ranking and samples give the same mean"


def test_page_stands_alone_and_is_well_formed(study: tuple[Path, Report, Page]) -> None:
    _, report, page = study
    assert report.page.stat().st_size < 5_000_000
    assert page.addresses and not page.wrong and not page.open
    assert len(page.ids) == len(set(page.ids)), "an id occurs twice"
    for address in page.addresses:
        assert address.startswith(("data:", "#", "figures/", "tables/")), address
        if address.startswith("#"):
            assert address[1:] in page.ids, address
        elif not address.startswith("data:"):
            assert (report.page.parent / address).stat().st_size > 0
    assert page.tags.count("script") == 1 and "iframe" not in page.tags  # its own, in the page: it has no address
    html = report.page.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", html), "the style sheet asks for a file"
    script = html[html.index("<script>") : html.index("</script>")]
    assert not re.search(r"fetch\(|XMLHttpRequest|https?://|import\(|innerHTML", script)


def test_every_table_reads_back_and_every_figure_is_there(study: tuple[Path, Report, Page]) -> None:
    _, report, _ = study
    tables, figures = (report.page.parent / name for name in ("tables", "figures"))
    names = {f.stem for f in tables.glob("*.csv")}
    expected = {"heatmap", "oneway", "additive", "ranking", "metrics", "sizes", "failures", "protocol", "agreement"}
    assert expected <= names
    for name in names:
        assert len(pd.read_csv(tables / f"{name}.csv")) >= 1
        latex = (tables / f"{name}.tex").read_text(encoding="utf-8")
        body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
        assert not re.search(r"(?<!\\)[_%#]", body), "LaTeX would stop at an unescaped character"
    drawn = {f.stem for f in figures.glob("*.svg")}
    assert {"heatmap", "factors", "ranking", "beside", "loss", "agreement"} <= drawn
    assert drawn <= {f.stem for f in figures.glob("*.png")} and (figures / "samples.png").stat().st_size > 1000
    for name in drawn:
        assert len(pd.read_csv(figures / f"{name}.csv")) >= 1, "a figure has its data beside it"


def test_samples_stand_in_order_of_score_with_gaps_where_runs_are_missing(study: tuple[Path, Report, Page]) -> None:
    _, report, page = study
    html = report.page.read_text(encoding="utf-8")
    grid = html[html.index('id="fig-samples"') : html.index("</figure>", html.index('id="fig-samples"'))]
    rows = re.findall(
        r'<tr data-values="[^"]+"><th class="row" scope="row">([^<]+)<small>([^<]+)</small></th>(.*?)</tr>', grid, re.S
    )
    above = grid[: grid.index("<tr data-values=")]
    base = above[above.index(">base model<") :]
    assert base.count("<img") == 8 and above.index(">reference images<") < above.index(">base model<")
    assert "Second row: the base model" in page.words
    assert len(rows) == 20 and rows[0][0] == "CA_out → FFN_in"
    scores = [float(score) for _, score, _ in rows]
    assert scores == sorted(scores, reverse=True)
    images = {label: body.count("<img") for label, _, body in rows}
    assert images["CA_out → FFN_in"] == 8
    assert images["Res_out → Res_out"] < 8 and images["SA_out → FFN_in"] < 8


def test_noise_maps_are_means_over_runs_on_one_scale(study: tuple[Path, Report, Page]) -> None:
    folder, report, page = study
    table = pd.read_csv(report.page.parent / "tables" / "noise.csv").set_index("design")
    runs = analysis.load_results(folder)
    floor, ceiling = runs["clip_i_floor"], runs["clip_i_ceiling"]
    planted = ((runs["clip_i"] - floor) / (ceiling - floor) / 4).groupby(runs["placement"]).mean()
    assert table.loc["base model", "difference"] == pytest.approx(0.01)
    assert table.loc["CA_out → FFN_in", "difference"] == pytest.approx(planted["attn2o-ffni"], rel=1e-5)
    assert table.loc["Res_out → Res_out", "runs"] == 2 and len(table) == 21
    assert len([i for i in page.ids if re.fullmatch(r"noise-map-\d+", i)]) == 21
    assert "By input, CA_out" in page.words and "the change is largest for CA_out → FFN_in" in page.words


def test_failed_runs_are_told_with_their_reasons_escaped(study: tuple[Path, Report, Page]) -> None:
    _, report, page = study
    assert "Out of memory while sampling <image 3>." in page.words and "The loss was not finite at step" in page.words
    assert "<image 3>" not in report.page.read_text(encoding="utf-8")
    assert "58 of 60" in page.words


def test_partial_study_marks_cells_without_runs(tmp_path: Path) -> None:
    tried = ["attn2o-ffni", "ffni-ffni", "attn2c-attn2c", "resi-reso"]
    lost = [("resi-reso", 0), ("resi-reso", 1)]
    write_study(tmp_path, tried, seeds=[0, 1], diverged=lost, missing=[("ffni-ffni", 0)], samples=0)
    page = Page(write_report(tmp_path).page.read_text(encoding="utf-8"))
    assert (cells(page, "cell"), cells(page, "empty"), cells(page, "inadmissible")) == (3, 17, 50)
    assert "2 of 7 runs have no score" in page.words
    assert "Samples" not in page.words


@pytest.mark.usefixtures("undrawn")
def test_one_run_says_plainly_that_nothing_can_be_said(tmp_path: Path) -> None:
    write_study(tmp_path, ["attn2o-ffni"], seeds=[0])
    report = write_report(tmp_path)
    assert report.conclusion[0].startswith("Nothing can be said about factors from one run")
    page = Page(report.page.read_text(encoding="utf-8"))
    assert "F(" not in page.words and "Samples" in page.words


def test_the_papers_heatmap_gives_the_papers_test(tmp_path: Path) -> None:
    report = write_report(HEATMAP, out=tmp_path)
    page = Page(report.page.read_text(encoding="utf-8"))
    assert "11.97" in page.words and "0.77" in page.words and "9.93" in page.words and "0.635" in page.words
    assert cells(page, "cell") == 20 and "Spearman" not in page.words
    assert "one run a design" in page.words


@pytest.mark.usefixtures("undrawn")
def test_fid_is_better_when_small(tmp_path: Path) -> None:
    write_study(tmp_path, ["ffni-ffni", "attn2o-ffni", "attn1i-ffni"], task="finetune", seeds=[0, 1], samples=0)
    report = write_report(tmp_path)
    ranking = pd.read_csv(report.page.parent / "tables" / "ranking.csv")
    assert ranking["design"][0] == "attn2o-ffni" and ranking["mean"].is_monotonic_increasing
    assert "attn2o-ffni" in report.conclusion[0] or "CA_out → FFN_in" in report.conclusion[0]


def test_forms_are_designs_too(tmp_path: Path) -> None:
    planted = {"relu": 0.7, "sig": 0.4, "silu": 0.6, "ident": 0.5}
    forms = [{"activation": a, "scale": s} for a in planted for s in (0.5, 1.0, 2.0)]
    write_study(tmp_path, ["attn2o-ffni"], forms=forms, share=lambda f: planted[f["activation"]], samples=0)
    report = write_report(tmp_path)
    page = Page(report.page.read_text(encoding="utf-8"))
    assert report.conclusion[0].startswith("Of activation and scale, activation matters for CLIP-I")
    assert page.words.index("Which factor matters?") < page.words.index("Of activation and scale")
    assert cells(page, "cell") == 12 and cells(page, "inadmissible") == 0
    assert "relu, scale 2" in page.words
    F = analysis.anova(analysis.load_results(tmp_path), "clip_i", ["activation", "scale"], 2, block="seed")["F"]
    assert f"{F['activation']:.2f}" in page.words


def test_full_tuning_is_a_reference_beside_the_placements(tmp_path: Path) -> None:
    tried = ["attn2o-ffni", "ffni-ffni", "ffni-transo", "attn1i-ffni"]
    write_study(tmp_path, tried, seeds=[0, 1], samples=0)
    before = pd.read_csv(write_report(tmp_path).page.parent / "tables" / "oneway.csv")
    for seed in (0, 1):
        write_full_tuning(tmp_path, seed)
    report = write_report(tmp_path)
    page, tables = Page(report.page.read_text(encoding="utf-8")), report.page.parent / "tables"
    pd.testing.assert_frame_equal(pd.read_csv(tables / "oneway.csv"), before)
    assert pd.read_csv(tables / "ranking.csv")["design"][0] == "full"
    assert cells(page, "cell") == 4 and "as it has no level of the factors: full" in page.words


@pytest.mark.usefixtures("undrawn")
def test_methods_are_compared_as_one_factor(tmp_path: Path) -> None:
    """Rates and steps that come with a method are no factors beside it, and levels of one factor do compare."""
    write_study(tmp_path, ["attn2o-ffni"], seeds=range(4), samples=0)
    for seed in range(4):
        write_full_tuning(tmp_path, seed, reached=0.9 + 0.02 * seed)
    report = write_report(tmp_path)
    page, tables = Page(report.page.read_text(encoding="utf-8")), report.page.parent / "tables"
    assert list(pd.read_csv(tables / "oneway.csv")["factor"]) == ["method"]
    assert list(pd.read_csv(tables / "ranking.csv")["design"]) == ["full", "attn2o-ffni"]
    levels = pd.read_csv(tables / "levels.csv").set_index("level")
    expected = analysis.marginal_means(analysis.load_results(tmp_path), "clip_i", "method", block="seed")
    assert levels.loc[["adapter", "full"], "low"].to_numpy() == pytest.approx(expected["low"].to_numpy())
    assert "unconnected" not in page.words and "that the seed leaves" in page.words


def test_a_study_of_failures_says_why(tmp_path: Path) -> None:
    write_study(tmp_path, ["attn2o-ffni"], seeds=[0], failed=[("attn2o-ffni", 0)])
    with pytest.raises(ValueError, match=r"has a score .*Out of memory"):
        write_report(tmp_path)


def test_compare_with_another_study(tmp_path: Path) -> None:
    tried = PLACEMENTS[:8]
    write_study(tmp_path / "a", tried, samples=0)
    write_study(tmp_path / "b", tried, samples=0, share=lambda f: 1 - planted_share(f["placement"]))
    page = Page(write_report(tmp_path / "a", compare=tmp_path / "b").page.read_text(encoding="utf-8"))
    assert "disagreement in the order of the placements" in page.words
    assert len([i for i in page.ids if re.match(r"heatmaps-\d-cell-", i)]) == 16, "both grids, eight cells each"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}/nowhere"], "does not exist"),
        (["{tmp}/empty"], "no run with a readable record.json"),
        (["{heatmap}", "--metric", "clip"], "clip_similarity"),
        (["{heatmap}", "--factors", "din,depth"], "placement, din, dout"),
        (["{heatmap}", "--compare", "{tmp}/nowhere"], "does not exist"),
        (["{heatmap}", "--out", "{heatmap}"], "heatmap"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis.__main__ import main

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([a.format(tmp=tmp_path, heatmap=HEATMAP) for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and said in err and err.count("\n") == 1 and not out


def test_help_is_quick_and_begins_with_an_example() -> None:
    code = (
        "import sys, runpy; sys.argv = ['analysis', '--help']\n"
        "try: runpy.run_module('analysis', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("example:\n  python -m analysis outputs/placement")


def test_the_report_never_imports_torch(tmp_path: Path) -> None:
    code = (
        f"import sys; from analysis.report import write_report; write_report({str(HEATMAP)!r}, out={str(tmp_path)!r})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.usefixtures("undrawn")
def test_the_model_asked_for_is_the_model_tested(tmp_path):
    runs = pd.DataFrame(
        [
            {
                "activation": a,
                "scale": s,
                "seed": seed,
                "clip_i": 0.1 * i + 0.05 * i * j + 0.01 * ((seed * 7 + i + 2 * j) % 5),
            }
            for i, a in enumerate(("relu", "silu", "ident"))
            for j, s in enumerate((0.5, 1.0))
            for seed in range(4)
        ]
    )
    runs.to_csv(tmp_path / "form.csv", index=False)
    write_report(tmp_path / "form.csv", out=tmp_path / "report", model="clip_i ~ activation * scale")
    table = pd.read_csv(tmp_path / "report" / "tables" / "additive.csv", index_col="term")
    expected = analysis.anova(runs, "clip_i", "activation * scale", block="seed")
    assert list(table.index) == ["seed", "activation", "scale", "activation:scale", "residual"]
    assert table["F"].to_list()[1:4] == pytest.approx(expected["F"].to_list()[1:4])
    with pytest.raises(ValueError, match="activation, scale"):
        write_report(tmp_path / "form.csv", out=tmp_path / "wrong", model="clip_i ~ activation + nose")


@pytest.mark.usefixtures("undrawn")
def test_designs_go_their_share_of_the_way_from_their_own_floor(tmp_path: Path) -> None:
    """Under guidance 4 the untuned model scores 0.2 higher: a design that starts there went less of the way."""
    rows = [
        {"guidance": g, "seed": s, "clip_i": score + 0.001 * s, "clip_i_floor": floor, "clip_i_ceiling": 0.9}
        for g, score, floor in ((2.5, 0.6, 0.1), (4.0, 0.65, 0.5))
        for s in range(4)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "strengths.csv", index=False)
    report = write_report(tmp_path / "strengths.csv", "clip_i", ["guidance"])
    table = pd.read_csv(report.page.parent / "tables" / "ranking.csv").set_index("design")
    words = Page(report.page.read_text(encoding="utf-8")).words
    assert [round(v, 3) for v in table["share"]] == [0.379, 0.627], "the higher score went less far"
    assert "guidance 2.5 goes furthest, 63%, and guidance 4 least, 38%" in words
    assert "from its own floor to its own ceiling" in words and "the mean floor" in words


def test_a_wall_of_two_hundred_designs_stays_small(tmp_path: Path) -> None:
    """Pictures that cannot be packed: noise in the lab's size, and in that of Stable Diffusion."""
    noise = np.random.default_rng(0)
    for side in (32, 512):
        file = tmp_path / f"{side}.png"
        Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
        keys = [(0, i, "a photo") for i in range(columns_for(WALL_ROWS))]
        size = side_for(len(keys) * WALL_ROWS)
        assert len(data_uri(file, size) or "") * len(keys) * WALL_ROWS < 4_000_000
    assert columns_for(24) == 8
