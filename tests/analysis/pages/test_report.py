"""The page is self-contained, escapes what it is told, counts every run, and is the same for the same records."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from analysis.conftest import SIZES

from pbt_bench.analysis.pages.report import GridFile, write_report
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec

HOSTILE = "<script>alert(1)</script>\"'&$\\x$"


class Page(HTMLParser):
    """All tags, links, and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.heads: list[str] = []
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == "h2" and data.strip():
            self.heads.append(data.strip())
            self.tags.append("")


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> tuple[list[RunSpec], Store, Path]:
    """A study with runs of every status, and its report."""
    specs = grid(method=("magnitude", "snip", "fts"), sparsity=(0.9, 0.98, 0.995)).runs()
    runs = [record(spec) for spec in specs[:-7]]
    runs += [record(specs[-7], "collapsed", 0.1), record(specs[-6], "diverged", 0.3)]
    runs += [record(spec, "failed") for spec in specs[-5:-2]]  # and the last two are missing
    folder = tmp_path_factory.mktemp("study")
    store = stored(folder / "results", runs)
    return specs, store, write_report("demo", specs, store, folder / "report")


def test_the_page_asks_the_network_for_nothing(study: tuple[list[RunSpec], Store, Path]) -> None:
    text = study[2].read_text()
    page = Page(text)
    outside = [link for link in page.links if re.match(r"(\w+:)?//", link)]
    assert outside, "the papers of the methods, opened by a click alone"
    assert all(re.fullmatch(r"https://arxiv[.]org/abs/\d{4}[.]\d{4,5}", link) for link in outside)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("script") == 2  # its data and its own code, which the policy allows by its hash
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(" not in text
    pictures = [link for link in page.links if link.startswith("data:")]
    assert len(pictures) == 16  # five of the data set, five of each model, all settings together
    for picture in pictures:
        svg = base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,"))
        for element in ElementTree.fromstring(svg).iter():
            for name, value in element.attrib.items():
                assert not (name.endswith("href") and re.match(r"(\w+:)?//", value))


def test_every_file_the_page_links_to_is_there(study: tuple[list[RunSpec], Store, Path]) -> None:
    path = study[2]
    files = [link for link in Page(path.read_text()).links if not link.startswith(("data:", "#", "https://"))]
    assert (
        len(files) == 2 * 16 + 4 * 2 + 1
    )  # png and svg of 16 figures; csv, md, tex and numbers of two tables; all settings together
    for file in files:
        assert (path.parent / file).stat().st_size > 0


def test_every_status_is_counted(study: tuple[list[RunSpec], Store, Path]) -> None:
    text = Page(study[2].read_text()).text
    total = len(study[0])
    assert f"{total - 7} done 1 diverged 1 collapsed 3 failed 2 missing" in text
    assert f"2 of {total} runs are missing (not run yet). 3 of {total} runs failed and have no accuracy." in text
    assert "3 × ScoreError: fts: conv1.weight has a NaN score" in text
    assert f"exactly as sparse as the mask in {total - 5} of {total - 5} runs" in text
    assert f"to the weight, in {total - 5} of {total - 5} runs" in text


def test_a_mask_that_was_not_kept_is_not_claimed(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9,)).runs()
    runs = [record(spec) for spec in specs]
    wrong = msgspec.structs.replace(runs[-1].pruning, realised_sparsity=0.89, kept=runs[-1].pruning.kept + 1)
    runs[-1] = msgspec.structs.replace(runs[-1], pruning=wrong)
    text = Page(write_report("demo", specs, stored(tmp_path / "in", runs), tmp_path / "out").read_text()).text
    assert "exactly as sparse as the mask in 5 of 6 runs" in text
    assert "to the weight, in 5 of 6 runs" in text


def test_what_comes_from_files_is_escaped(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(model=("m<b>x",), method=(HOSTILE, "snip"), sparsity=(0.9,)).runs()
    runs = [record(spec, environment={"host": HOSTILE}) for spec in specs[:-1]]
    runs.append(record(specs[-1], "failed", error=HOSTILE))
    path = write_report(HOSTILE, specs, stored(tmp_path / "in", runs), tmp_path / "out")
    page = Page(path.read_text())
    assert page.tags.count("script") == 2
    assert page.text.count(HOSTILE) >= 4  # title, method, error, host: shown as written


def test_characters_that_change_the_direction_of_text_are_replaced(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(model=("vgg8",), method=("=snip\u202e",), sparsity=(0.9,)).runs()
    runs = [record(spec, environment={"host": "a\u2066b\x9b"}) for spec in specs]
    page = write_report("demo", specs, stored(tmp_path / "in", runs), tmp_path / "out")
    tables = [path for path in (tmp_path / "out" / "tables").iterdir() if path.suffix != ".csv"]
    for path in (page, *tables):
        assert not {"\u202e", "\u2066", "\x9b"} & set(path.read_text()), path
    for path in (tmp_path / "out" / "tables").glob("*.csv"):
        assert "\u202e" not in path.read_text(), path
        assert not any(cell.startswith("=") for line in path.read_text().splitlines() for cell in line.split(","))


def test_without_a_single_record_the_page_says_so(tmp_path: Path, grid: Callable[..., Grid]) -> None:
    specs = grid().runs()
    path = write_report("empty", specs, Store(tmp_path / "nothing"), tmp_path / "out")
    text = Page(path.read_text()).text
    assert f"{len(specs)} missing" in text
    assert f"Nothing to report yet: {len(specs)} of {len(specs)} runs are missing" in text
    assert Page(path.read_text()).heads == ["What was run", "Settings", "All runs"], "what is empty is not shown"


def test_without_a_record_the_published_table_comes_first(tmp_path: Path, grid: Callable[..., Grid]) -> None:
    specs = grid(dataset=("cifar10",), model=("resnet18", "vgg8"), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()
    path = write_report("printed", specs, Store(tmp_path / "nothing"), tmp_path / "out")
    page = Page(path.read_text())
    assert f"No run yet, published numbers only: {len(specs)} of {len(specs)} runs are missing" in page.text
    assert "Every number below" not in page.text
    accuracy = ["Accuracy tables", "Accuracy against sparsity", "What was run", "Accuracy against compression"]
    assert page.heads == [*accuracy, "Settings", "All runs"]
    assert "Test accuracy in percent as papers printed it" in page.text
    assert "cifar10 / resnet18 #" in page.text
    assert "cifar10 / vgg8 #" not in page.text, "nothing is printed of it"


def test_records_of_other_runs_in_the_folder_are_left_out(
    study: tuple[list[RunSpec], Store, Path], tmp_path: Path
) -> None:
    specs, store, _ = study
    few = [spec for spec in specs if spec.model == "vgg8" and spec.method in ("dense", "snip")]
    text = Page(write_report("few", few, store, tmp_path).read_text()).text
    assert f"{len(few)} runs" in text
    assert "resnet8" not in text
    assert "magnitude" not in text


def test_the_same_records_give_the_same_files(study: tuple[list[RunSpec], Store, Path], tmp_path: Path) -> None:
    specs, store, first = study
    again = write_report("demo", specs, store, tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(names) == 1 + 2 * 16 + 1 + 4 * 2 + 1  # and the list of what was drawn
    for name in names:
        assert (first.parent / name).read_bytes() == (again.parent / name).read_bytes(), name


def test_an_untrained_study_says_that_it_is_one(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    made = msgspec.structs.replace(grid(model=("vgg8",), method=("snip",)), recipe=grid().recipe.__class__(epochs=0))
    specs = made.runs()
    path = write_report("masks", specs, stored(tmp_path / "in", [record(spec) for spec in specs]), tmp_path / "out")
    assert "This study trains nothing" in Page(path.read_text()).text


def test_a_page_says_when_its_runs_have_different_environments(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord], stored: Callable[..., Store]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9,)).runs()
    records = [record(spec) for spec in specs]
    places = [
        {"processor": "AVX2", "torch": "2.1", "dirty": False},
        {"processor": "AVX512", "torch": "2.1", "dirty": True},
    ]
    mixed = [msgspec.structs.replace(each, environment=places[number % 2]) for number, each in enumerate(records)]
    page = write_report("mixed", specs, stored(tmp_path / "mixed", mixed), tmp_path / "out").read_text()
    assert "The tables mix runs of different processor: AVX2 (3 runs), AVX512 (3 runs)." in page
    assert "3 runs were made by code with uncommitted changes." in page
    assert "different torch" not in page
    same = [msgspec.structs.replace(each, environment=places[0]) for each in records]
    page = write_report("same", specs, stored(tmp_path / "same", same), tmp_path / "out").read_text()
    assert "The tables mix" not in page
    assert "uncommitted" not in page


def test_every_heading_has_an_anchor_of_its_own(study: tuple[list[RunSpec], Store, Path]) -> None:
    page = Page(study[2].read_text())
    assert len(page.ids) == len(set(page.ids))
    inside = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    headings = len([tag for tag in page.tags if tag in ("h2", "h3")])
    assert len(inside) == headings + len(page.heads), "one at each heading, one for each section in the contents"
    assert page.heads[:4] == ["Accuracy against sparsity", "Accuracy tables", "Conclusions", "What was run"]


def test_a_reader_learns_what_an_image_a_network_and_a_method_are(study: tuple[list[RunSpec], Store, Path]) -> None:
    text = Page(study[2].read_text()).text
    total = sum(SIZES)
    assert f"{total:,}2,000,000{total - int(0.9 * total):,}" in text, "prunable weights, FLOPs, kept at 0.9"
    assert "snip|θ·g|: the first-order change of the loss when the weight is removed.Lee et al. 2019" in text
    assert "Over 6 settings, " in text
    assert "digits / resnet8: " in text


def test_the_page_says_what_was_left_out_and_how_to_make_it_again(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord], stored: Callable[..., Store]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9,), seed=(0, 1)).runs()
    made = {"started": "2026-01-02T03:04:05+00:00", "seconds": 30.0, "commit": "0123456789abcdef", "dirty": False}
    runs = [record(spec, environment=made) for spec in specs]
    fewer = msgspec.structs.replace(runs[-1].pruning, layers=runs[-1].pruning.layers[:-1])
    runs[-1] = msgspec.structs.replace(runs[-1], pruning=fewer)
    store = stored(tmp_path / "in", runs)
    store.path(specs[0].run_id).unlink()
    store.path(specs[0].run_id).symlink_to(f"{specs[0].run_id}.json")  # cannot be read: it links to itself
    (tmp_path / "demo.toml").write_text('name = "<demo>"\n')
    grid_file = GridFile(tmp_path / "demo.toml", ["recipe.epochs=2"])
    page = write_report("demo", specs, store, tmp_path / "out", grid_file=grid_file)
    text = Page(page.read_text()).text
    for chip in ("<b>2</b> done", "<b>0</b> missing", "<b>1</b> unreadable", "<b>1</b> left out"):
        assert chip in page.read_text()
    assert "Provisional: 1 of 4 runs has no result here: unreadable." in text
    assert "1 record left out of all figures and tables:" in text
    assert f"{specs[-1].run_id}: it has 6 layers; 2 runs of digits / vgg8 have 7" in text
    assert "date: 2026-01-02; time of all runs: 1 min 30 s (3 runs, added up); commit: 0123456789ab (clean)." in text
    assert "pbt-bench run demo.toml --set recipe.epochs=2 pbt-bench report demo.toml" in text
    assert 'name = "<demo>"' in text
    assert str(tmp_path) not in page.read_text()
    assert GridFile(Path("grids/x y.toml")).commands[0] == "pbt-bench run 'grids/x y.toml'"
