"""A figure is one file: the page, the papers' page and the documentation show it, and nothing else is edited."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pbt_bench.analysis import figures
from pbt_bench.analysis.pages.paper import write_paper
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from catalogue import figures_page  # noqa: E402

FIGURE = '''
from matplotlib.figure import Figure
from pbt_bench.analysis.figures import figure, style

@figure(of="OF", section="An own section", title="An own title", caption="An own caption.", order=ORDER, paper=True,
        text=lambda data: "An own sentence.", table=lambda data: TABLE)
def own_figure(data) -> Figure:
    """An own definition."""
    drawn = style.new_figure(2, 1)
    drawn.subplots()
    return drawn
'''
TABLE = {"panel": "data.runs[['seed']]", "dataset": "data[0].runs[['seed']]", "study": "data.pooled.pairs"}
GRID = """# A study.
name = "study"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["snip", "fts"]
sparsity = [0.9]
seed = [0, 1]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of figures that is read once more, and forgotten after the test."""
    figures.figures()
    monkeypatch.setattr(figures._FIGURES, "_entries", dict(figures._FIGURES._entries))
    monkeypatch.setenv("PBT_BENCH_FIGURES", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    figures.figures.cache_clear()
    yield tmp_path / "own"
    figures.figures.cache_clear()


@pytest.mark.parametrize(("of", "stem"), [("panel", "-digits-vgg8"), ("dataset", "-digits"), ("study", "")])
def test_a_new_file_is_a_new_figure_everywhere(
    own: Path,
    tmp_path: Path,
    of: str,
    stem: str,
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    (own / "any.py").write_text(FIGURE.replace("OF", of).replace("ORDER", "85").replace("TABLE", TABLE[of]))
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/study.toml").write_text(GRID)
    stored(tmp_path / "results/study", list(map(record, load_grid(tmp_path / "grids/study.toml").runs())))
    (study,) = write_paper(tmp_path / "grids", tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out/study/index.html").read_text()
    for text in (">An own section", "An own title", "An own caption.", "An own sentence."):
        assert text in page
    assert page.index("When layers run empty") < page.index("An own section") < page.index("Where the weights went")
    for file in (f"figures/own_figure{stem}.png", f"figures/own_figure{stem}.svg", f"tables/own_figure{stem}.csv"):
        assert f'href="{file}"' in page
        assert (tmp_path / "out/study" / file).stat().st_size > 0
    assert f"study/figures/own_figure{stem}.svg" in study.figures
    assert f"study/figures/own_figure{stem}.svg" in (tmp_path / "out/index.html").read_text()
    text = figures_page()
    assert "## An own section" in text
    assert f"`own_figure`, of a {of}" in text
    assert "An own definition." in text


def test_two_figures_of_one_name_are_an_error(own: Path) -> None:
    for name in ("first.py", "second.py"):
        (own / name).write_text(FIGURE.replace("OF", "study").replace("ORDER", "1").replace("TABLE", "None"))
    with pytest.raises(RequestError, match=r"figure 'own_figure' is defined twice: .*first.py:5 and .*second.py:5"):
        figures.figures()


def test_the_documentation_has_every_section() -> None:
    text = figures_page()
    assert {entry.section for entry in figures.figures()} == {
        line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")
    }
    assert text.count("## ") == len({entry.section for entry in figures.figures()})
