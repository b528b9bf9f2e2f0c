"""Tables print the right numbers, mark best and second (ties alike), say what lacks, and compile."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess

import numpy as np
import pytest

from pbt_bench.analysis.frame import frame
from pbt_bench.analysis.summary import panels
from pbt_bench.analysis.tables import Cell, accuracy_table, latex, markdown, save_table
from pbt_bench.spec import RunSpec


@pytest.fixture
def table(record):
    """Two seeds; at 0.9 two methods tie for the best, at 0.98 one seed of fts and all of synflow lack."""
    accuracies = {
        ("dense", 0.0): [0.95, 0.97],
        ("snip", 0.9): [0.80, 0.90],
        ("fts", 0.9): [0.85, 0.85],
        ("synflow", 0.9): [0.70, 0.72],
        ("my_method", 0.9): [0.10, 0.10],
        ("snip", 0.98): [0.50, 0.60],
        ("fts", 0.98): [0.40, None],
        ("synflow", 0.98): [None, None],
    }
    runs = []
    for (method, sparsity), values in accuracies.items():
        for seed, value in enumerate(values):
            spec = RunSpec(dataset="digits", model="vgg8", method=method, sparsity=sparsity, seed=seed)
            runs.append(spec if value is None else record(spec, accuracy=value))
    (panel,) = panels(frame(runs))
    return accuracy_table(panel)


def test_cells_are_method_by_sparsity(table):
    assert table.sparsities == ["0.9", "0.98"]
    assert table.dense == Cell("96.00", "1.41")
    assert dict(table.rows) == {
        "snip": [Cell("85.00", "7.07", "", "best"), Cell("55.00", "7.07", "", "best")],
        "synflow": [Cell("71.00", "1.41", "", "second"), Cell()],
        "fts": [Cell("85.00", "0.00", "", "best"), Cell("40.00", "", "n = 1", "second")],
        "my_method": [Cell("10.00", "0.00"), Cell()],
    }


def test_markdown(table):
    lines = markdown(table).splitlines()
    assert lines[2] == "| method | 0.9 | 0.98 |"
    assert "| dense (sparsity 0) | 96.00 ± 1.41 |  |" in lines
    assert "| synflow | <ins>71.00</ins> ± 1.41 | – |" in lines
    assert "| fts | **85.00** ± 0.00 | <ins>40.00</ins> (n = 1) |" in lines
    assert "| my\\_method | 10.00 ± 0.00 | – |" in lines
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]}) == 1


def test_latex_marks_and_escapes(table):
    text = latex(table)
    assert r"my\_method & 10.00" in text
    assert r"fts & \textbf{85.00} {\scriptsize $\pm$ 0.00} & \underline{40.00} {\scriptsize (n = 1)} \\" in text
    assert r"dense & \multicolumn{2}{c}{96.00 {\scriptsize $\pm$ 1.41}} \\" in text


def test_csv_holds_plain_numbers_and_status_counts(tmp_path, table):
    save_table(table, tmp_path / "tables" / "x")
    with (tmp_path / "tables" / "x.csv").open() as file:
        rows = {(row["method"], float(row["sparsity"])): row for row in csv.DictReader(file)}
    assert len(rows) == 8
    snip = rows["snip", 0.9]
    assert float(snip["mean"]) == pytest.approx(0.85)
    assert float(snip["std"]) == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert (snip["n"], snip["done"], snip["missing"]) == ("2", "2", "0")
    assert (rows["synflow", 0.98]["n"], rows["synflow", 0.98]["missing"]) == ("0", "2")
    assert rows["synflow", 0.98]["mean"] == ""


def test_the_latex_table_compiles(tmp_path, record):
    hostile = ["my_method", r"50%_#1 & ${x}^2$ ~ \input{y}", "snip"]
    specs = [
        RunSpec(dataset="d_1", model="m&m", method=method, sparsity=sparsity, seed=seed)
        for method in ("dense", *hostile)
        for sparsity in ((0.0,) if method == "dense" else (0.9, 0.995))
        for seed in (0, 1)
    ]
    (panel,) = panels(frame(map(record, specs)))
    save_table(accuracy_table(panel), tmp_path / "table")
    assert r"50\%\_\#1 \& \$\{x\}\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}input\{y\}" in (
        (tmp_path / "table.tex").read_text()
    )
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 0
