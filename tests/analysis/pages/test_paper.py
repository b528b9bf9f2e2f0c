"""The papers' page draws what there is, says what is missing, and its tables compile; the reference study is whole."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pbt_bench.analysis.pages.paper import StudyEntry, write_paper
from pbt_bench.cli import main
from pbt_bench.grid_file import load_grid
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store

ROOT = Path(__file__).parents[3]
REFERENCE = "fts_table1_mini"
GRID = """# A study, {name},
# in two lines.
name = "{name}"
recipe = "fts-2025"
[grid]
dataset = ["{dataset}"]
model = ["resnet18"]
method = ["snip", "fts"]
sparsity = [0.9, 0.98]
seed = [0]
"""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> Path:
    """Three studies: one with runs, one that a paper has numbers of, one with neither."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "grids").mkdir()
    for name, dataset in (("own", "digits"), ("printed", "cifar10"), ("nothing", "mnist")):
        (folder / "grids" / f"{name}.toml").write_text(GRID.format(name=name, dataset=dataset))
    (folder / "results").mkdir()
    stored(folder / "results/own", [record(spec) for spec in load_grid(folder / "grids/own.toml").runs()[:-1]])
    return folder


@pytest.fixture(scope="module")
def studies(folder: Path) -> list[StudyEntry]:
    return write_paper(folder / "grids", folder / "results", folder / "out")


def test_every_study_is_listed_with_what_there_is(folder: Path, studies: list[StudyEntry]) -> None:
    assert [(study.name, study.recorded, study.runs, bool(study.page)) for study in studies] == [
        ("own", 4, 5, True),
        ("printed", 0, 5, True),
        ("nothing", 0, 5, False),
    ]
    page = " ".join((folder / "out/index.html").read_text().split())
    assert "A study, own, in two lines." in page
    assert "4 of 5 runs." in page
    assert "0 of 5 runs; published numbers alone. How long they take is not known" in page
    assert "<b>nothing</b> (5 runs)" in page
    table = (folder / "out/printed/tables/cifar10-resnet18.md").read_text()
    assert "| 0.9 | 90.36 ± 0.34 | 90.55 ± 0.23 |" in table, "exactly the paper's layout"
    assert (folder / "out/printed/tables/cifar10-resnet18.csv").read_text() == (
        "sparsity,snip,fts\n0.9,90.36 ± 0.34,90.55 ± 0.23\n0.98,87.26 ± 0.28,87.24 ± 0.32\n"
    )
    assert '<span class="">90.55</span>' in page, "the table itself is on the page"
    assert "Highest mean accuracy: " in page
    assert "Over 1 setting, " in page, "the one that has a run of both methods"
    run, _, folded = page.partition("<details")
    assert '<h2 id="own">' in run, "what was run here comes first"
    assert '<h2 id="printed">' in folded
    assert folded.index("<b>nothing</b>") > folded.index('<h2 id="printed">')


def test_every_link_leads_somewhere(folder: Path, studies: list[StudyEntry]) -> None:
    links = re.findall(r'(?:href|src)="([^#"]+)"', (folder / "out/index.html").read_text())
    assert len(links) == 1 + 2 * (1 + 4) + 4 + 2, "tables.tex; per study its page and four table files; figures"
    for link in links:
        assert (folder / "out" / link).stat().st_size > 0


def test_all_tables_compile_as_one_document(folder: Path, studies: list[StudyEntry]) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=folder / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (folder / "out/tables.pdf").stat().st_size > 10_000


def test_variants_are_on_the_page_too(
    tmp_path: Path, record: Callable[..., RunRecord], stored: Callable[[Path, Sequence[RunRecord]], Store]
) -> None:
    (tmp_path / "grids").mkdir()
    text = GRID.format(name="ablation", dataset="digits").replace(
        "seed = [0]", 'seed = [0, 1, 2]\nsanity = ["none", "invert"]'
    )
    (tmp_path / "grids/ablation.toml").write_text(text)
    stored(tmp_path / "results/ablation", [record(spec) for spec in load_grid(tmp_path / "grids/ablation.toml").runs()])
    (study,) = write_paper(tmp_path / "grids", tmp_path / "results", tmp_path / "out")
    assert [shown.table.title for shown in study.tables][-1] == "digits / resnet18: sanity invert against none"
    assert "ablation/figures/variants.svg" in study.figures
    for path in [*study.figures, *(f"ablation/tables/{shown.slug}.tex" for shown in study.tables)]:
        assert (tmp_path / "out" / path).stat().st_size > 0


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--grids", str(folder / "grids"), "--results", str(folder / "results"), "--out", str(tmp_path / "out")]
    assert main(["paper", *words]) == 0
    assert "own: 4 of 5 runs\nprinted: 0 of 5 runs, published numbers alone\n" in capsys.readouterr().out
    assert main(["paper", "--grids", str(tmp_path)]) == 2
    assert "no study files there" in capsys.readouterr().err


def test_the_reference_study_is_whole_small_and_of_no_machine() -> None:
    store = Store(ROOT / "results" / REFERENCE)
    specs = load_grid(ROOT / "grids" / f"{REFERENCE}.toml").runs()
    records = store.records({spec.run_id for spec in specs})
    again = f"fields of a run have changed: rm -r results/{REFERENCE}; pbt-bench run grids/{REFERENCE}.toml"
    assert len(records) == len(specs), again
    assert {record.status for record in records} <= {"done", "collapsed", "diverged"}
    files = [*store.runs.iterdir(), *store.masks.iterdir()]
    assert sum(file.stat().st_size for file in files) < 3e6
    for record in records:
        assert store.read_masks(record) is not None
        assert "/" not in record.to_json().decode()
