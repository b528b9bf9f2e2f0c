"""Tests that records outlive edits of the code, releases, renamed methods and the files of methods."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from pbt_bench.analysis.pages.report import write_report
from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.cli import main
from pbt_bench.errors import RequestError, StoreError
from pbt_bench.grid_file import load_grid
from pbt_bench.pruning.plugins import pruners
from pbt_bench.running.audit import audit
from pbt_bench.running.checkpoint import Checkpoint
from pbt_bench.running.claims import Claims
from pbt_bench.running.execute import Executor
from pbt_bench.running.plan import check_names, plan
from pbt_bench.running.record import RunRecord
from pbt_bench.running.signals import StopSignal
from pbt_bench.running.source import check_revisions, code_revisions, code_state, method_source_digest
from pbt_bench.running.status import Summary, summary
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec

VERSIONS = Path(__file__).parents[1] / "records_of_versions"
OWN = """
from pbt_bench.pruning import pruner, statistic


@statistic(cite="none")
def doubled(task):
    \"\"\"Twice the weights.\"\"\"
    return {name: 2 * weight.detach() for name, weight in task.parameters.items()}


@pruner(cite="none")
def own(doubled, *, power=1.0):
    return doubled.abs() ** power
"""
GRID = """
name = "study"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["own", "magnitude"]
sparsity = [0.9]
seed = [0]
[recipe]
epochs = 0
"""
Read = Callable[[bool], tuple[Grid, Store]]


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file of an own method that is registered, and loaded again after `pruners.cache_clear()`."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    (tmp_path / "study.toml").write_text(GRID)
    monkeypatch.setenv("PBT_BENCH_METHODS", str(folder))
    pruners.cache_clear()
    yield folder / "own.py"
    monkeypatch.undo()
    pruners.cache_clear()


@pytest.fixture
def read(methods: Path) -> Read:
    """Return a function that reads the files again: the grid, and the store of its study."""

    def again(reading: bool = False) -> tuple[Grid, Store]:
        pruners.cache_clear()
        folder = methods.parents[1]
        store = Store(folder / "results" / "study")
        return check_names(load_grid(folder / "study.toml"), "study.toml", store if reading else None), store

    return again


def execute(grid: Grid, store: Store) -> list[RunRecord]:
    store.prepare()
    made = [Executor(store.folder, torch.device("cpu")).execute(spec) for spec in plan(grid, store).missing]
    for each in made:
        assert each.record.status == "done", each.record.error
        store.write(each.record, each.masks)
    return [each.record for each in made]


def counts(grid: Grid, store: Store) -> dict[str, int]:
    state = summary(grid, store, ask_slurm=False)
    assert state.counts.total() == state.total
    return {name: count for name, count in state.counts.items() if count}


def test_an_edited_method_supersedes_its_records_and_keeps_them(methods: Path, read: Read) -> None:
    grid, store = read(False)
    before = {record.run_id: record for record in execute(grid, store)}
    assert counts(grid, store) == {"done": 3}
    (old,) = (record for record in before.values() if record.spec.method == "own")
    assert set(old.revisions) == {"method own", "statistic doubled"}
    methods.write_text(OWN.replace("Twice", "Two times").replace('cite="none"', 'cite="elsewhere"'))
    assert counts(*read(False)) == {"done": 3}, "documentation and citations are no code"
    methods.write_text(OWN.replace("2 * weight", "3 * weight"))  # of equal length
    grid, store = read(False)
    assert counts(grid, store) == {"done": 2, "superseded": 1}
    state = summary(grid, store, ask_slurm=False)
    assert "method own is at revision" in (state.of("superseded")[0].why or "")
    assert "1 superseded" in state.line()
    assert json.loads(state.to_json())["superseded"] == 1
    table = study_frame(grid.runs(), store)
    assert table["status"].value_counts().to_dict() == {"done": 2, "missing": 1}
    (why,) = table.attrs["superseded"]
    page = write_report("study", grid.runs(), store, store.folder / "report", table).read_text()
    assert f"1 superseded record left out: {why}" in page
    assert "<b>1</b> superseded" in page
    assert "<b>0</b> missing" in page
    assert "1 of 3 runs has no result here: superseded." in page
    text = audit("study", grid.runs(), store, store.folder, "cpu", 10, False).text()
    assert f"note: 1 record superseded: {why}" in text
    todo = plan(grid, store)
    assert [spec.method for spec in todo.missing] == ["own"]
    assert todo.notes() == ["note: 1 record superseded by another revision of the code"]
    execute(grid, store)
    assert counts(grid, store) == {"done": 3}
    assert store.read(old.run_id) == old, "kept"


def test_an_edited_module_that_a_method_imports_gives_new_runs(methods: Path, read: Read) -> None:
    def run_id() -> str:
        for name in ("exponents", "exponents_of_all", "exponents_of_all.given"):
            sys.modules.pop(name, None)
        return next(spec.run_id for spec in read(False)[0].runs() if spec.method == "own")

    before = run_id()
    folder = methods.parent
    (folder / "math.py").write_text("x = 0")  # the standard library's is imported
    methods.write_text(f"import math\n{OWN}")
    alone = run_id()
    (folder / "math.py").write_text("x = 1")
    assert run_id() == alone != before
    (folder / "math.py").unlink()
    methods.write_text(
        f"import sys\nsys.path.insert(0, {str(folder)!r})\nfrom exponents_of_all.given import POWER\n{OWN}"
    )
    (folder / "exponents_of_all").mkdir()
    (folder / "exponents_of_all" / "__init__.py").write_text("")
    (folder / "exponents_of_all" / "given.py").write_text("POWER = 1")
    first = run_id()
    (folder / "exponents_of_all" / "given.py").write_text("POWER = 1  # of the scores")
    assert run_id() == first
    (folder / "exponents_of_all" / "given.py").write_text("POWER = 2")
    assert run_id() != first
    sys.path.remove(str(folder))


def test_a_failed_record_is_not_superseded(methods: Path, read: Read) -> None:
    grid, store = read(False)
    store.prepare()
    (spec,) = (spec for spec in grid.runs() if spec.method == "own")
    store.write(RunRecord.new(spec, "failed", error="boom"))
    assert plan(grid, store).notes() == [
        f"failed: digits vgg8 own 0.9 seed 0 ({spec.run_id}): boom", "1 failed (--retry-failed runs them again)",
    ]  # fmt: skip
    methods.write_text(OWN.replace("2 *", "3 *"))
    assert counts(*read(False)) == {"missing": 3}


def test_a_renamed_method_with_its_old_name_as_alias_finds_its_records(methods: Path, read: Read) -> None:
    grid, store = read(False)
    before = {record.spec.method: record for record in execute(grid, store)}
    renamed = OWN.replace("def own", "def fresh").replace(
        '@pruner(cite="none")', '@pruner(cite="none", aliases=("own",))'
    )
    methods.write_text(renamed)
    for name in ("own", "fresh"):
        (methods.parents[1] / "study.toml").write_text(GRID.replace('"own"', f'"{name}"'))
        grid, store = read(False)
        assert counts(grid, store) == {"done": 3}
        assert summary(grid, store, ask_slurm=False).migrated == 1
        (row,) = (row for _, row in study_frame(grid.runs(), store).iterrows() if row["method"] == "fresh")
        assert row["test_accuracy"] == before["own"].metrics.test_accuracy  # type: ignore[union-attr]
        assert store.masks_of(row["run_id"], row["layers"], row["mask_digest"]) is not None
        assert plan(grid, store).missing == []


@pytest.mark.parametrize("edit", [{"format": 3}, {"spec": {"later": 1}}, {"scoring": {"later": 1}}])
def test_a_record_of_a_newer_version_is_kept_and_counted(methods: Path, read: Read, edit: dict[str, object]) -> None:
    grid, store = read(False)
    record = execute(grid, store)[1]
    table = msgspec.json.decode(record.to_json())
    for name, value in edit.items():
        part = {"spec": table["spec"], "scoring": table["spec"]["scoring"]}.get(name)
        table[name] = value if part is None else table.get(name)
        part.update(value) if part is not None else None  # type: ignore[call-overload, func-returns-value]
    text = msgspec.json.encode(table)
    store.path(record.run_id).write_bytes(text)
    assert counts(grid, store) == {"done": 2, "newer": 1}
    todo = plan(grid, store)
    assert todo.missing == []
    assert todo.notes() == [f"note: 1 record written by a newer pbt-bench, and kept: {record.run_id}"]
    with pytest.raises(StoreError, match="written by a newer pbt-bench, and is kept"):
        store.write(record)
    assert store.path(record.run_id).read_bytes() == text
    assert "1 record written by a newer" in audit("study", grid.runs(), store, store.folder, "cpu", 0, False).text()


def test_results_are_read_without_the_files_of_methods(
    methods: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    (methods.parents[1] / "study.toml").write_text(GRID + "[options.own]\npower = [1.0, 2.0]\n")
    grid, store = read(False)
    execute(grid, store)
    specs = grid.runs()
    monkeypatch.delenv("PBT_BENCH_METHODS")
    with pytest.raises(RequestError, match="unknown method 'own'"):
        read(False)
    grid, store = read(True)
    assert grid.runs() == specs
    assert counts(grid, store) == {"done": 4}
    write_report("study", specs, store, store.folder / "report")
    found = audit("study", specs, store, store.folder, "cpu", 10, False)
    assert not found.faults
    assert "2 records not recomputed: the file of the method, model or dataset is gone" in found.text()
    (methods.parents[1] / "study.toml").write_text(GRID.replace('"own"', '"owm"'))
    with pytest.raises(RequestError, match="unknown method 'owm'"):
        read(True)


@pytest.mark.parametrize(("axis", "name"), [("dataset", "lost"), ("model", "lost-net"), ("scope", "lost_scope")])
def test_records_of_a_dataset_model_or_scope_that_is_gone_are_counted(
    methods: Path, read: Read, axis: str, name: str
) -> None:
    grid, store = read(False)
    for record in execute(grid, store):
        if axis == "scope" and record.spec.method == "dense":
            continue
        revisions = {**record.spec.revisions, f"{axis} {name}": "abc"}
        spec = msgspec.structs.replace(record.spec, **{axis: name}, revisions=revisions)
        store.write(msgspec.structs.replace(record, run_id=spec.run_id, spec=spec))
    text = GRID.replace('"digits"', '"lost"') if axis == "dataset" else GRID.replace('"vgg8"', '"lost-net"')
    text = GRID.replace("sparsity", 'scope = ["lost_scope"]\nsparsity') if axis == "scope" else text
    (methods.parents[1] / "study.toml").write_text(text)
    with pytest.raises(RequestError, match=f"unknown {axis} {name!r}"):
        read(False)
    grid, store = read(True)
    assert counts(grid, store) == {"done": 3}


def test_a_worker_executes_only_the_revision_that_the_run_names(methods: Path, read: Read) -> None:
    grid, _ = read(False)
    (spec,) = (spec for spec in grid.runs() if spec.method == "own")
    check_revisions(spec)
    assert code_revisions(spec) == spec.revisions
    methods.write_text(OWN.replace("2 *", "3 *"))
    check_revisions(spec)  # the file is not loaded again
    pruners.cache_clear()
    with pytest.raises(RequestError, match="method own is at revision .*: the file was edited while the study runs"):
        check_revisions(spec)


def test_an_edited_method_never_continues_the_mask_of_another(methods: Path, read: Read) -> None:
    grid, store = read(False)
    store.prepare()
    (old,) = (spec for spec in grid.runs() if spec.method == "own")
    claims = Claims(store.folder)
    checkpoint = Checkpoint(store, old.run_id, 0.0, StopSignal(), claims)
    with checkpoint.saving(phase="train"):
        checkpoint.save({})
    assert checkpoint.load() is not None
    methods.write_text(OWN.replace("2 *", "3 *"))
    (new,) = (spec for spec in read(False)[0].runs() if spec.method == "own")
    assert new.run_id != old.run_id
    assert Checkpoint(store, new.run_id, 0.0, StopSignal(), claims).load() is None
    store.checkpoint(old.run_id).rename(store.checkpoint(new.run_id))
    assert Checkpoint(store, new.run_id, 0.0, StopSignal(), claims).load() is None, "it belongs to another run"
    claims.close()


def test_every_record_names_the_source_of_its_method(methods: Path, read: Read) -> None:
    grid, _ = read(False)
    specs = {spec.method: spec for spec in grid.runs()}
    found = {name: method_source_digest(spec) for name, spec in specs.items()}
    assert found["dense"] is None
    assert len({*found.values()}) == 3
    assert method_source_digest(msgspec.structs.replace(specs["magnitude"], scope="erk")) != found["magnitude"]
    methods.write_text(OWN.replace("2 *", "3 *"))
    read(False)
    assert method_source_digest(specs["own"]) != found["own"]
    assert method_source_digest(specs["magnitude"]) == found["magnitude"]
    assert set(code_state()) == {"commit", "dirty"}


# -- records of released versions -------------------------------------------------------------------------------------


def frozen(name: str, folder: Path) -> tuple[Grid, Store]:
    path = VERSIONS / f"{name}.toml"
    shutil.copytree(VERSIONS / "format_1", folder / name)
    return check_names(load_grid(path), str(path)), Store(folder / name)


def reasons(state: Summary) -> dict[str, str | None]:
    return {run.label: run.why for run in state.of("superseded")}


def test_records_of_version_0_1_are_recognised(tmp_path: Path) -> None:
    grid, store = frozen("iterative", tmp_path)
    state = summary(grid, store, ask_slurm=False)
    assert {name: count for name, count in state.counts.items() if count} == {"done": 3, "superseded": 1}
    assert reasons(state) == {"digits resnet8 synflow 0.98 seed 0": "method synflow is at revision 2, not 1"}
    grid, store = frozen("options", tmp_path)
    state = summary(grid, store, ask_slurm=False)
    assert {name: count for name, count in state.counts.items() if count} == {"done": 3, "superseded": 2}
    labels = [f"digits vgg8 {method} 0.9 seed 0 protocol original" for method in ("grasp", "snip")]
    assert reasons(state) == dict.fromkeys(labels, "original is at revision 2, not 1")
    assert state.migrated == 2
    assert "3 done, 2 superseded; 2 records migrated from an earlier version" in state.line()
    assert {spec.run_id for spec in grid.runs()} & store.migrated.keys() == store.migrated.keys()


def test_a_record_from_before_the_correction_of_synflow_is_superseded(tmp_path: Path) -> None:
    """Its commit precedes a8439ce, before which SynFlow's masks could be wrong."""
    state = summary(*frozen("before_correction", tmp_path), ask_slurm=False)
    assert reasons(state) == {"digits resnet8 synflow 0.98 seed 0": "method synflow is at revision 2, not 1"}


@pytest.mark.parametrize(("name", "superseded"), [("iterative", 1), ("options", 2)])
def test_records_of_version_0_1_are_audited_and_reported(name: str, superseded: int, tmp_path: Path) -> None:
    grid, store = frozen(name, tmp_path)
    found = audit(name, grid.runs(), store, tmp_path, "cpu", 0, False)
    assert not found.faults
    assert "3 of 3 verified" in found.text()
    table = study_frame(grid.runs(), store)
    assert table["status"].value_counts().to_dict() == {"done": 3, "missing": superseded}
    page = write_report(name, grid.runs(), store, tmp_path / "report", table)
    assert f"{superseded} superseded record" in page.read_text()


def test_a_migrated_record_is_shown_under_both_ids(capsys: pytest.CaptureFixture[str]) -> None:
    for run_id in ("227a69421cab2b6c", "9173de463c04ce88"):
        assert main(["show", run_id, "--results", str(VERSIONS)]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["run_id"] == "227a69421cab2b6c"
        assert shown.err == "note: migrated from an earlier version: the id of this run is 9173de463c04ce88 now\n"


def test_a_record_says_which_revision_superseded_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "e6c5f1ba", "--results", str(VERSIONS)]) == 0
    shown = capsys.readouterr()
    assert shown.err == "note: superseded: method synflow is at revision 2, not 1\n"
    assert RunSpec.from_json(json.dumps(json.loads(shown.out)["spec"])).run_id == "e6c5f1bae35faf73"
