"""A figure is drawn once, and again when anything that it shows has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.pages import gallery
from pbt_bench.analysis.pages.report import write_report
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The figures that are saved, by name."""
    names: list[str] = []
    real = style.save

    def save(figure: Figure, stem: Path) -> bytes:
        names.append(stem.name)
        return real(figure, stem)

    monkeypatch.setattr(gallery, "save", save)
    monkeypatch.setattr(gallery, "processes", lambda: 1)
    return names


@pytest.fixture
def study(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> tuple[list[RunSpec], Store]:
    specs = grid(model=("vgg8", "resnet8"), method=("snip", "fts"), sparsity=(0.9,), seed=(0, 1)).runs()
    store = stored(tmp_path / "study", [record(spec) for spec in specs if spec != specs[-1]])
    return specs, store


def test_nothing_new_draws_nothing_and_one_new_run_draws_its_panel(
    study: tuple[list[RunSpec], Store], record: Callable[..., RunRecord], tmp_path: Path, drawn: list[str]
) -> None:
    specs, store = study
    first = write_report("x", specs, store, tmp_path / "out").read_bytes()
    every = set(drawn)
    assert any(name.startswith("collapse") for name in every)
    drawn.clear()
    assert write_report("x", specs, store, tmp_path / "out").read_bytes() == first
    assert drawn == []
    store.write(record(specs[-1]))
    assert write_report("x", specs, store, tmp_path / "out").read_bytes() != first
    assert drawn
    assert {name for name in every - set(drawn) if "vgg8" in name} == {n for n in every if "vgg8" in n}
    assert specs[-1].model == "resnet8"


@pytest.mark.parametrize("damage", ["svg", "png", "list", "gone"])
def test_a_figure_that_is_not_what_was_drawn_is_drawn_again(
    study: tuple[list[RunSpec], Store], tmp_path: Path, drawn: list[str], damage: str
) -> None:
    specs, store = study
    path = write_report("x", specs, store, tmp_path / "out")
    first = path.read_bytes()
    figures = path.parent / "figures"
    slug = next(name for name in drawn if name.startswith("accuracy"))
    every = len(drawn)
    drawn.clear()
    if damage == "list":
        (figures / ".drawn.json").write_bytes(b"{}x")
    elif damage == "gone":
        (figures / f"{slug}.png").unlink()
    else:
        (figures / f"{slug}.{damage}").write_bytes(b"<svg/>")
    assert write_report("x", specs, store, tmp_path / "out").read_bytes() == first
    assert len(drawn) == (every if damage == "list" else 1)
    assert (figures / f"{slug}.png").stat().st_size > 1000


def test_another_version_of_the_code_draws_again(
    study: tuple[list[RunSpec], Store], tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, store = study
    write_report("x", specs, store, tmp_path / "out")
    every = list(drawn)
    drawn.clear()
    monkeypatch.setattr(gallery, "_code", lambda: "another")
    write_report("x", specs, store, tmp_path / "out")
    assert drawn == every


def test_several_processes_draw_the_same_bytes(
    study: tuple[list[RunSpec], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, store = study
    pages = []
    for processes in (1, 3):
        monkeypatch.setattr(gallery, "processes", lambda n=processes: n)
        pages.append(write_report("x", specs, store, tmp_path / str(processes)).read_bytes())
    assert pages[0] == pages[1]
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n / "figures").iterdir()} for n in "13")
    assert first == second


def test_the_figures_of_a_process_that_hangs_are_drawn_all_the_same(
    study: tuple[list[RunSpec], Store], tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "processes", lambda: 50)
    monkeypatch.setattr(gallery, "_WAIT_FOR_HELPERS", 0.1)
    monkeypatch.setattr(gallery.Gallery, "_help", lambda *_: time.sleep(600))
    write_report("x", *study, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out/figures").glob("*.svg")} == set(drawn)


def test_what_fails_in_another_process_is_raised(
    study: tuple[list[RunSpec], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    specs, store = study

    def save(figure: Figure, stem: Path) -> bytes:
        if stem.name.startswith("profiles"):
            raise OSError(f"no room for {stem.name}")
        return real(figure, stem)

    real = style.save
    monkeypatch.setattr(gallery, "save", save)
    monkeypatch.setattr(gallery, "processes", lambda: 50)  # the first figure is not the one
    with pytest.raises(OSError, match="no room for profiles"):
        write_report("x", specs, store, tmp_path / "out")
