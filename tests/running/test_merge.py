"""Tests that records and masks of several folders are merged, and packed into one file that every reader reads."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch
from records import result

from pbt_bench.analysis.records.data_frame import load_results, study_frame
from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.audit import audit
from pbt_bench.running.execute import Executor
from pbt_bench.running.merge import merge, pack
from pbt_bench.running.plan import check_names, plan
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

GRID = """
name = "study"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["magnitude", "snip"]
sparsity = [0.7, 0.9]
seed = [0]
[recipe]
epochs = 0
"""


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RunSpec], list[Path]]:
    """Return the runs of a study, and three folders: the whole, its first half and its second half."""
    root = tmp_path_factory.mktemp("merge")
    (root / "study.toml").write_text(GRID)
    specs = check_names(load_grid(root / "study.toml"), "study.toml").runs()
    folders = [root / name / "study" for name in ("whole", "first", "second")]
    for folder, own in zip(folders, (specs, specs[:3], specs[2:]), strict=True):
        store = Store(folder)
        store.prepare()
        executor = Executor(folder, torch.device("cpu"))
        for spec in own:
            executed = executor.execute(spec)
            store.write(executed.record, executed.masks)
    return specs, folders


@pytest.fixture
def copies(halves: tuple[list[RunSpec], list[Path]], tmp_path: Path) -> list[Path]:
    """Return copies of the two halves, which a test may change."""
    return [Path(shutil.copytree(folder, tmp_path / folder.parent.name / "study")) for folder in halves[1][1:]]


def results(folder: Path) -> dict[str, object]:
    return {record.run_id: result(record) for record in Store(folder).records()}


def edit(folder: Path, run_id: str, **changes: object) -> RunRecord:
    record = Store(folder).read(run_id)
    assert record is not None
    changed = msgspec.structs.replace(record, **changes)  # type: ignore[arg-type]
    Store(folder).path(run_id).write_bytes(changed.to_json())
    return changed


def test_two_halves_are_the_whole(halves: tuple[list[RunSpec], list[Path]], tmp_path: Path) -> None:
    specs, (whole, *parts) = halves
    into = tmp_path / "merged" / "study"
    found = merge(parts, into)
    assert (found.added, found.equal, found.differing) == (5, 1, [])
    assert results(into) == results(whole)
    masks = {path.name: path.read_bytes() for path in (into / "masks").iterdir()}
    assert masks == {path.name: path.read_bytes() for path in (whole / "masks").iterdir()}
    assert not audit("study", specs, Store(into), tmp_path, "cpu", 2, False).faults
    again = merge(parts, into)
    assert (again.added, again.equal) == (0, 6)


def test_other_numbers_of_a_run_are_named_and_not_overwritten(
    halves: tuple[list[RunSpec], list[Path]], copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = halves[0][2].run_id  # in both halves
    metrics = Store(copies[1]).records({run_id})[0].metrics
    other = msgspec.structs.replace(metrics, weights_digest="0" * 64)
    edit(copies[1], run_id, metrics=other, environment={"host": "else\x1b[2Jwhere", "processor": "AVX2"})
    into = tmp_path / "merged"
    words = ["merge", *map(str, copies), "--into", str(into)]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert f"({run_id}): kept that of [host " in said
    assert "of [host else?[2Jwhere, processor AVX2]" in said
    assert results(into)[run_id] == results(copies[0])[run_id]
    assert len(results(into)) == 5


def test_newer_and_unreadable_records_are_named_and_a_result_replaces_a_failure(
    halves: tuple[list[RunSpec], list[Path]], copies: list[Path], tmp_path: Path
) -> None:
    dense, newer, shared = (spec.run_id for spec in halves[0][:3])
    edit(copies[0], newer, format=9)
    edit(copies[0], shared, status="failed", error="boom")
    Store(copies[0]).path(dense).write_bytes(b"{")
    found = merge(copies, tmp_path / "merged")
    assert [len(found.newer), len(found.unreadable), found.replaced] == [1, 1, 1]
    assert newer in found.newer[0]
    assert dense in found.unreadable[0]
    assert Store(tmp_path / "merged").names() == {spec.run_id for spec in halves[0][1:]}
    (record,) = Store(tmp_path / "merged").records({shared})
    assert record.status == "done"
    with pytest.raises(RequestError, match="nothing: no records there"):
        merge([tmp_path / "nothing"], tmp_path / "merged")


def test_a_packed_study_has_the_same_bytes_and_is_read_everywhere(
    halves: tuple[list[RunSpec], list[Path]], copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs, (whole, *_) = halves
    (tmp_path / "results").mkdir()
    packed, *counts = pack(whole, tmp_path / "results" / "study.pack")
    assert counts == [5, 5]
    shutil.copytree(whole, tmp_path / "other" / "study")
    again, *_ = pack(tmp_path / "other" / "study")
    assert again.read_bytes() == packed.read_bytes()
    for folder in (packed, tmp_path / "results" / "study"):
        store = Store(folder)
        assert store.folder == tmp_path / "results" / "study"
        assert results(folder) == results(whole)
        assert not audit("study", specs, store, tmp_path, "cpu", 1, False).faults
        assert study_frame(specs, store)["status"].tolist() == ["done"] * 5
        assert load_results(folder).equals(load_results(whole)[load_results(folder).columns])
    (tmp_path / "study.toml").write_text(GRID)
    for results_folder in (packed, tmp_path / "results"):
        assert main(["status", str(tmp_path / "study.toml"), "--results", str(results_folder)]) == 0
        assert main(["show", specs[0].run_id, "--results", str(results_folder)]) == 0
    assert "study: 5 runs: 5 done" in capsys.readouterr().out
    merged = merge([packed], tmp_path / "merged")
    assert merged.added == 5
    assert results(tmp_path / "merged") == results(whole)


def test_masks_of_some_methods_are_packed(
    halves: tuple[list[RunSpec], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs, (whole, *_) = halves
    assert main(["pack", str(whole), "--out", str(tmp_path / "some.pack"), "--masks-of", "snip"]) == 0
    assert main(["pack", str(whole), "--out", str(tmp_path / "none.pack"), "--masks-of"]) == 0
    assert Store(tmp_path / "some.pack").masked() == {spec.run_id for spec in specs if spec.method == "snip"} != set()
    assert Store(tmp_path / "none.pack").masked() == set()
    assert results(tmp_path / "none.pack") == results(whole)
    assert not audit("study", specs, Store(tmp_path / "some.pack"), tmp_path, "cpu", 5, True).faults
    assert main(["pack", str(whole), "--out", str(tmp_path / "x.pack"), "--masks-of", "snip", "snap"]) == 2
    assert "--masks-of snap: " in capsys.readouterr().err
    assert not (tmp_path / "x.pack").exists()


def test_a_run_is_not_repeated_that_is_in_a_packed_file_and_new_records_are_beside_it(
    halves: tuple[list[RunSpec], list[Path]], copies: list[Path]
) -> None:
    (copies[0].parent / "study.toml").write_text(GRID)
    grid = check_names(load_grid(copies[0].parent / "study.toml"), "study.toml")
    pack(copies[0])
    shutil.rmtree(copies[0])
    store = Store(copies[0])
    store.prepare()
    assert [spec.run_id for spec in plan(grid, store).missing] == [spec.run_id for spec in halves[0][3:]]
    (record,) = Store(copies[1]).records({halves[0][4].run_id})
    store.write(record)
    assert len(store.records()) == 4
    assert store.finished(halves[0][0].run_id) is not None


def test_what_is_no_packed_study_is_one_clean_error(copies: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    path.write_bytes(b"no archive")
    with pytest.raises(RequestError, match="is not a packed study"):
        Store(path)
    with pytest.raises(RequestError, match="must end with"):
        pack(copies[0], tmp_path / "x.zip")
    with pytest.raises(RequestError, match="must be a folder"):
        merge(copies, tmp_path / "y.pack")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("runs/0123456789abcdef.json", b"0" * 100)
    assert Store(path).records() == []
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0" * 100, b"1" * 100))  # its checksum is wrong
    assert Store(path).records() == []


def test_a_run_of_two_studies_is_shown_once_with_both(
    halves: tuple[list[RunSpec], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(halves[1][0], tmp_path / name)
    assert main(["show", halves[0][0].run_id, "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.err == "note: 2 studies have it (one, two), with the same numbers\n"
    assert msgspec.json.decode(shown.out)["run_id"] == halves[0][0].run_id
