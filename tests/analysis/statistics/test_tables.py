"""Tables print the right numbers beside the published ones, bold only what the data support, and compile."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pbt_bench.analysis.pages.table_files import latex, markdown, save_table
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.records.published import Published, load_published
from pbt_bench.analysis.statistics.literature import with_published
from pbt_bench.analysis.statistics.paired import standings
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.analysis.statistics.tables import Cell, Row, Table, accuracy_table
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Recipe, RunSpec

HEAD = "paper,dataset,model,method,sparsity,top1_mean,top1_std,n_runs,note,statistic\n"
ABOUT = 'recipe = "fts-2025"\ninit = "default"\nstatistic = "mean"\n[models]\npaper_vgg = "vgg8"\n'


def made(
    record: Callable[..., RunRecord],
    accuracies: Mapping[tuple[str, float], Sequence[float | None]],
    published: Published | None = None,
    **fields: Any,
) -> Table:
    """The table of runs with these accuracies: (method, sparsity) -> one per seed; None = missing."""
    runs = []
    for (method, sparsity), values in accuracies.items():
        for seed, value in enumerate(values):
            spec = RunSpec(dataset="digits", model="vgg8", method=method, sparsity=sparsity, seed=seed, **fields)
            runs.append(spec if value is None else record(spec, accuracy=value))
    (panel,) = panels(frame(runs))
    (panel,) = with_published([panel], published) if published else [panel]
    return accuracy_table(panel, standings(panel))


@pytest.fixture
def table(record: Callable[..., RunRecord]) -> Table:
    """Three seeds; at 0.9 snip is better than all, at 0.98 one seed of fts lacks (no tie then), and all of synflow."""
    return made(
        record,
        {
            ("dense", 0.0): [0.95, 0.97, 0.96],
            ("snip", 0.9): [0.88, 0.90, 0.92],
            ("fts", 0.9): [0.848, 0.87, 0.892],
            ("synflow", 0.9): [0.701, 0.72, 0.739],
            ("my_method", 0.9): [0.10, 0.10, 0.10],
            ("snip", 0.98): [0.50, 0.60, 0.70],
            ("fts", 0.98): [0.40, 0.62, None],
            ("synflow", 0.98): [None, None, None],
            ("my_method", 0.98): [0.10, 0.10, 0.10],
        },
    )


BELOW = [("87.00", "2.20"), ("72.00", "1.90"), ("10.00", "0.00")]


def test_rows_are_sparsities_and_columns_methods(table: Table) -> None:
    assert table.methods == ["snip", "fts", "synflow", "my_method"], "in the order of the study"
    assert table.rows == [
        Row("0 (dense)", "here", [Cell("96.00", "1.00")]),
        Row(
            "0.9",
            "here",
            [Cell("90.00", "2.00", "", "best"), *(Cell(*each, "", "worse") for each in BELOW)],
        ),
        Row(
            "0.98",
            "here",
            [
                Cell("60.00", "10.00", "", "highest"),
                Cell("51.00", "15.56", "n = 2", "undecided"),
                Cell("", "", "missing"),
                Cell("10.00", "0.00", "", "worse"),
            ],
        ),
    ]


def test_markdown(table: Table) -> None:
    lines = markdown(table).splitlines()
    assert lines[2] == "| sparsity | snip | fts | synflow | my\\_method |"
    assert "| 0 (dense) | 96.00 ± 1.00 |  |  |  |" in lines
    assert "| 0.9 | **90.00** ± 2.00 | 87.00 ± 2.20 | 72.00 ± 1.90 | 10.00 ± 0.00 |" in lines
    assert lines[-1].startswith("| 0.98 | <ins>60.00</ins> ± 10.00 | 51.00 ± 15.56 (n = 2) ? | (missing)")
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]}) == 1


def test_latex_marks_and_escapes(table: Table) -> None:
    text = latex(table)
    assert r"sparsity & snip & fts & synflow & my\_method \\" in text
    assert r"0.98 & \underline{60.00} {\scriptsize $\pm$ 10.00} & 51.00? {" in text
    assert r"0.9 & \textbf{90.00} {\scriptsize $\pm$ 2.00} & 87.00" in text
    assert r"0 (dense) & \multicolumn{4}{c}{96.00 {\scriptsize $\pm$ 1.00}} \\" in text


def test_csv_has_the_same_layout(tmp_path: Path, table: Table) -> None:
    save_table(table, tmp_path / "x")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["sparsity", "snip", "fts", "synflow", "my_method"],
            ["0 (dense)", "96.00 ± 1.00", "", "", ""],
            ["0.9", "90.00 ± 2.00", "87.00 ± 2.20", "72.00 ± 1.90", "10.00 ± 0.00"],
            ["0.98", "60.00 ± 10.00", "51.00 ± 15.56 (n = 2) ?", "(missing)", "10.00 ± 0.00"],
        ]


def test_all_with_the_highest_mean_are_marked_alike(record: Callable[..., RunRecord]) -> None:
    alike = {("snip", 0.9): [0.7, 0.8, 0.9], ("fts", 0.9): [0.8, 0.9, 0.7], ("random", 0.9): [0.8, 0.6, 0.9]}
    table = made(record, alike)
    assert [cell.mark for cell in table.rows[0].cells] == ["highest", "highest", "undecided"]
    assert "Underlined: the highest mean, and methods equal" in table.caption


def test_a_method_at_chance_in_every_run_is_told_apart_from_the_marked(record: Callable[..., RunRecord]) -> None:
    accuracies = {"snip": [0.7, 0.8, 0.9], "fts": [0.8, 0.7, 0.8], "random": [0.1] * 3}
    runs = [
        record(
            RunSpec(dataset="digits", model="vgg8", method=method, sparsity=0.9, seed=seed),
            "collapsed" if method == "random" else "done",
            accuracy,
        )
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    (panel,) = panels(frame(runs))
    (row,) = accuracy_table(panel, standings(panel)).rows
    assert [cell.mark for cell in row.cells] == ["highest", "undecided", "worse"]


def test_numbers_hold_status_counts(tmp_path: Path, table: Table) -> None:
    save_table(table, tmp_path / "tables" / "x")
    with (tmp_path / "tables" / "x-numbers.csv").open() as file:
        rows = {(row["method"], float(row["sparsity"])): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    snip = rows["snip", 0.9]
    assert float(snip["mean"]) == pytest.approx(0.90)
    assert float(snip["std"]) == pytest.approx(np.std([0.88, 0.9, 0.92], ddof=1))
    assert (snip["n"], snip["done"], snip["missing"]) == ("3", "3", "0")
    assert (rows["synflow", 0.98]["n"], rows["synflow", 0.98]["missing"]) == ("0", "3")
    assert rows["synflow", 0.98]["mean"] == ""


def test_runs_that_ended_at_chance_are_shown_as_such(record: Callable[..., RunRecord]) -> None:
    specs = [RunSpec(dataset="d", model="m", method="snip", sparsity=0.9, seed=seed) for seed in range(3)]
    runs = [record(specs[0], accuracy=0.7), record(specs[1], "collapsed", 0.3), record(specs[2], "failed")]
    (panel,) = panels(frame(runs))
    (row,) = accuracy_table(panel, standings(panel)).rows
    assert row.cells == [Cell("40.00", "42.43", "n = 2, 1 collapsed, 1 failed")]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "x.toml").write_text(ABOUT)
    (folder / "x.csv").write_text(
        HEAD
        + "P 2020,digits,paper_vgg,snip,0.9,89.5,0.5,3,,\n"
        + "P 2020,digits,paper_vgg,fts,0.9,80,,3,printed otherwise,max over epochs\n"
        + "P 2020,digits,paper_vgg,synflow,0.5,80,1,3,,\n"
    )
    return load_published(folder)


def test_published_values_and_differences_stand_below_the_measured_ones(
    record: Callable[..., RunRecord], published: Published
) -> None:
    table = made(record, {("snip", 0.9): [0.90, 0.92], ("fts", 0.9): [0.85, 0.85], ("random", 0.9): [0.5]}, published)
    assert [(row.sparsity, row.kind) for row in table.rows] == [("0.9", "here"), ("0.9", "published"), ("0.9", "Δ")]
    assert table.methods == ["snip", "fts", "random"]
    assert table.rows[1].cells == [Cell("89.50", "0.50"), Cell("80.00"), Cell()]
    assert table.rows[2].cells == [Cell("+1.50"), Cell("+5.00"), Cell()]
    assert "epochs 15 here, 160 there" in table.notes[0]
    assert "milestones none here, 60, 120 there" in table.notes[0]
    assert "prints the mean and the max over epochs" in table.notes[0]
    assert table.notes[1] == "Published fts: printed otherwise."
    text = latex(table)
    assert r" & $\Delta$ & +1.50 & +5.00 & -- \\" in text
    assert "% P 2020: prints the mean" in text


def test_a_maximum_over_epochs_is_compared_with_a_maximum(
    record: Callable[..., RunRecord], published: Published
) -> None:
    specs = [RunSpec(dataset="digits", model="vgg8", method="fts", sparsity=0.9, seed=seed) for seed in (0, 1)]
    runs = [record(spec, accuracy=0.7) for spec in specs]
    runs = [
        msgspec.structs.replace(
            run, metrics=msgspec.structs.replace(run.metrics, best_test_accuracy_over_epochs=0.82 + 0.02 * seed)
        )
        for seed, run in enumerate(runs)
    ]
    (panel,) = with_published(panels(frame(runs)), published)
    assert accuracy_table(panel, standings(panel)).rows[2].cells == [Cell("+3.00")]
    (panel,) = with_published(panels(frame([record(specs[0], accuracy=0.7), runs[1]])), published)
    assert accuracy_table(panel, standings(panel)).rows[2].cells == [Cell("-10.00")], "not all have one"


def test_a_published_method_that_is_another_one_has_no_difference(
    tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    (tmp_path / "x.toml").write_text(ABOUT.replace("[models]", 'sanity = { snip = "invert" }\n[models]'))
    (tmp_path / "x.csv").write_text(HEAD + "P,digits,paper_vgg,snip,0.9,89.5,0.5,3,inverted,\n")
    plain = made(record, {("snip", 0.9): [0.90, 0.92]}, load_published(tmp_path))
    assert [(row.kind, row.cells[0].mean) for row in plain.rows] == [("here", "91.00"), ("published", "89.50")]
    inverted = made(record, {("snip", 0.9): [0.90, 0.92]}, load_published(tmp_path), sanity="invert")
    assert [row.cells[0].mean for row in inverted.rows] == ["91.00", "89.50", "+1.50"]


def test_without_a_run_the_table_is_the_published_one_alone(
    record: Callable[..., RunRecord], published: Published
) -> None:
    table = made(record, {("snip", 0.9): [None] * 3, ("fts", 0.98): [None] * 3}, published)
    assert [(row.sparsity, row.kind) for row in table.rows] == [("0.9", "published")]
    assert table.rows[0].cells == [Cell("89.50", "0.50"), Cell("80.00")]
    assert "no run here yet" in table.caption


def test_the_latex_table_compiles(tmp_path: Path, record: Callable[..., RunRecord], published: Published) -> None:
    hostile = ["my_method", r"50%_#1 & ${x}^2$ ~ \input{y}", "snip"]
    specs = [
        RunSpec(dataset="digits", model="vgg8", method=method, sparsity=sparsity, seed=seed, recipe=Recipe(epochs=2))
        for method in ("dense", *hostile)
        for sparsity in ((0.0,) if method == "dense" else (0.9, 0.995))
        for seed in (0, 1)
    ]
    (panel,) = panels(frame(map(record, specs)))
    (panel,) = with_published([panel], published)
    save_table(accuracy_table(panel, standings(panel)), tmp_path / "table")
    text = (tmp_path / "table.tex").read_text()
    assert r"50\%\_\#1 \& \$\{x\}\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}input\{y\}" in text
    assert r"$\Delta$" in text
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 0


@pytest.fixture
def beside(record: Callable[..., RunRecord], tmp_path: Path) -> Table:
    """Two methods at two sparsities and dense; a paper printed dense and one cell; one run lacks."""
    (tmp_path / "x.toml").write_text(ABOUT)
    (tmp_path / "x.csv").write_text(
        HEAD + "P,digits,paper_vgg,dense,0,96,,3,,\nP,digits,paper_vgg,snip,0.9,89.5,0.5,3,,\n"
    )
    runs: dict[tuple[str, float], list[float | None]] = {
        ("dense", 0.0): [0.95, 0.97],
        ("snip", 0.98): [0.5, 0.6],
        ("random", 0.98): [0.4, None],
        ("snip", 0.9): [0.90, 0.92],
        ("random", 0.9): [0.5, 0.4],
    }
    return made(record, runs, load_published(tmp_path))


CAPTION = (
    "test accuracy in percent, mean ± standard deviation over 2 seeds, beside it what papers printed. "
    "Bold: better than every other method. Underlined: the highest mean, and methods equal to it within one point (two "
    "one-sided tests). A question mark: these seeds decide neither that nor that the method is worse. Unmarked: worse."
)


def test_a_table_beside_published_numbers_in_latex(beside: Table) -> None:
    assert beside.caption == CAPTION
    *lines, note, end = latex(beside).split("\n")
    assert lines == [
        f"% digits / vgg8: {CAPTION} Needs \\usepackage{{booktabs}}.",
        r"\begin{tabular}{llrr}",
        r"\toprule",
        r"sparsity &  & snip & random \\",
        r"\midrule",
        r"0 (dense) & here & \multicolumn{2}{c}{96.00 {\scriptsize $\pm$ 1.41}} \\",
        r" & published & \multicolumn{2}{c}{96.00} \\",
        r" & $\Delta$ & \multicolumn{2}{c}{+0.00} \\",
        r"\midrule",
        r"0.9 & here & \underline{91.00} {\scriptsize $\pm$ 1.41} & 45.00? {\scriptsize $\pm$ 7.07} \\",
        r" & published & 89.50 {\scriptsize $\pm$ 0.50} & -- \\",
        r" & $\Delta$ & +1.50 & -- \\",
        r"\addlinespace",
        r"0.98 & here & \underline{55.00} {\scriptsize $\pm$ 7.07} & 40.00? {\scriptsize (n = 1)} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert note.startswith("% P: prints the mean; ")
    assert end == ""


def test_a_plain_table_in_latex_has_no_column_of_kinds(record: Callable[..., RunRecord]) -> None:
    runs = {("dense", 0.0): [0.9], ("snip", 0.9): [0.8, 0.7], ("snip", 0.98): [0.6, 0.5]}
    head, *lines = latex(made(record, runs)).split("\n")
    assert "published" not in head
    assert "papers" not in head
    assert lines == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"sparsity & snip \\",
        r"\midrule",
        r"0 (dense) & 90.00 {\scriptsize (n = 1)} \\",
        r"0.9 & 75.00 {\scriptsize $\pm$ 7.07} \\",
        r"0.98 & 55.00 {\scriptsize $\pm$ 7.07} \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]


def test_a_table_beside_published_numbers_in_markdown_and_csv(beside: Table, tmp_path: Path) -> None:
    head, blank, *lines, empty, note, end = markdown(beside).split("\n")
    assert (head, blank, empty, end) == (f"digits / vgg8: {CAPTION}", "", "", "")
    assert note.startswith("- P: prints the mean; ")
    assert lines == [
        "| sparsity |  | snip | random |",
        "| --- | --- | ---: | ---: |",
        "| 0 (dense) | here | 96.00 ± 1.41 |  |",
        "| 0 (dense) | published | 96.00 |  |",
        "| 0 (dense) | Δ | +0.00 |  |",
        "| 0.9 | here | <ins>91.00</ins> ± 1.41 | 45.00 ± 7.07 ? |",
        "| 0.9 | published | 89.50 ± 0.50 | – |",
        "| 0.9 | Δ | +1.50 | – |",
        "| 0.98 | here | <ins>55.00</ins> ± 7.07 | 40.00 (n = 1) ? |",
    ]
    save_table(beside, tmp_path / "new" / "folder" / "x")
    assert (tmp_path / "new" / "folder" / "x.md").read_text(encoding="utf-8") == markdown(beside)
    written = (tmp_path / "new" / "folder" / "x-numbers.csv").read_text(encoding="utf-8").splitlines()
    assert written[0] == (
        "dataset,model,setting,method,sparsity,n,mean,std,half_interval_95,done,diverged,collapsed,failed,missing,"
        "published_mean,published_std,published_n,published_statistic,published_source,published_note,difference"
    )
    assert [line.split(",")[3:6] for line in written[1:]] == [
        ["dense", "0.0", "2"],
        ["snip", "0.9", "2"],
        ["random", "0.9", "2"],
        ["snip", "0.98", "2"],
        ["random", "0.98", "1"],
    ]


def test_published_rows_stand_alone_only_if_there_is_no_run_and_a_pruned_one_is_printed(
    record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    def kinds(printed: Any, runs: Any) -> Any:
        (tmp_path / "x.toml").write_text(ABOUT)
        (tmp_path / "x.csv").write_text(HEAD + "".join(f"P,digits,paper_vgg,{row},90,,3,,\n" for row in printed))
        return [(row.sparsity, row.kind) for row in made(record, runs, load_published(tmp_path)).rows]

    none = {("dense", 0.0): [None], ("snip", 0.9): [None, None]}
    here = [("0 (dense)", "here"), ("0 (dense)", "published"), ("0.9", "here")]
    assert kinds(["dense,0"], none) == here
    assert kinds(["dense,0", "snip,0.9"], none) == [("0 (dense)", "published"), ("0.9", "published")]
    assert kinds(["snip,0.9"], none) == [("0.9", "published")]
    assert kinds(["dense,0", "snip,0.9"], none | {("snip", 0.9): [0.9, None]}) == [
        *here,
        ("0.9", "published"),
        ("0.9", "Δ"),
    ]


def test_a_printed_dense_network_that_no_run_has_counts_as_no_run(
    record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    (tmp_path / "x.toml").write_text(ABOUT)
    (tmp_path / "x.csv").write_text(HEAD + "P,digits,paper_vgg,dense,0,96,,3,,\n")
    table = made(record, {("snip", 0.9): [0.8, 0.7]}, load_published(tmp_path))
    assert [(row.sparsity, row.kind) for row in table.rows] == [
        ("0 (dense)", "here"),
        ("0 (dense)", "published"),
        ("0.9", "here"),
    ]
    assert table.kinds
    assert "beside it what papers printed" in table.caption
    dense = table.numbers.to_dict("records")[0]
    assert (dense["method"], dense["n"], dense["done"], dense["missing"]) == ("dense", 0, 0, 0)


def test_a_published_cell_without_a_run_has_counts_of_zero(
    record: Callable[..., RunRecord], published: Published
) -> None:
    table = made(
        record, {("snip", 0.9): [0.90, None], ("synflow", 0.9): [0.5, 0.6], ("fts", 0.5): [0.7, 0.8]}, published
    )
    rows = {(row["method"], row["sparsity"]): row for row in table.numbers.to_dict("records")}
    lacking = rows["synflow", 0.5]
    assert lacking["published_mean"] == 0.8
    assert {lacking[name] for name in ("n", "done", "diverged", "collapsed", "failed", "missing")} == {0}
    assert table.numbers["n"].dtype == int
    assert np.isnan(rows["snip", 0.9]["half_interval_95"])
    assert rows["fts", 0.5]["half_interval_95"] == pytest.approx(12.706 * 0.05, rel=1e-3)
