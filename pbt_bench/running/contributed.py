"""Studies that others ran: a packed file and a grid file of the same name in one folder, checked by an audit.

The grid file has a table `[contributed]`, which says who ran the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pbt_bench.errors import RequestError, counted, printable
from pbt_bench.grid_file import Contribution, contribution, load_grid
from pbt_bench.running.audit import Audit, audit
from pbt_bench.running.packed import SUFFIX
from pbt_bench.running.plan import check_names
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

RETRAINED = 2  # runs of a study whose whole training is repeated


@dataclass(frozen=True)
class ContributedStudy:
    """A study of the folder of contributed ones."""

    name: str
    about: Contribution
    specs: list[RunSpec]
    store: Store


def read_contributed(path: Path) -> ContributedStudy:
    """Return the study of a grid file. Raises RequestError, one line, if it is no complete contribution.

    Its methods, models and datasets must be those of the project: others cannot be recomputed.
    """
    about = contribution(path)
    if about is None:
        raise RequestError(f'{path}: a contributed study needs a table [contributed] with by = "NAME"')
    grid = check_names(load_grid(path), str(path))
    if grid.name != path.stem:
        raise RequestError(f"{path}: name = {grid.name!r} must be the name of the file, {path.stem!r}")
    if not path.with_suffix(SUFFIX).is_file():
        raise RequestError(f"{path}: {path.stem}{SUFFIX} is missing beside it (pbt-bench pack)")
    return ContributedStudy(grid.name, about, grid.runs(), Store(path.with_suffix("")))


def contributed_files(folder: Path) -> list[Path]:
    """Return the grid files of a folder of contributed studies.

    Raises RequestError for a packed file without one: nobody could check it.
    """
    files = sorted(folder.glob("*.toml"))
    for pack in sorted(folder.glob(f"*{SUFFIX}")):
        if pack.with_suffix(".toml") not in files:
            raise RequestError(f"{pack}: {pack.stem}.toml is missing beside it")
    return files


def check_contributed(
    folder: Path, data: Path, device: str, sample: int, seed: int | None = None, by: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the name of every study in `folder`, and why it is refused in one line, "" if it holds.

    Every record is compared with itself, its masks, its dataset and the other records. The masks of `sample` records
    are recomputed, and the training of RETRAINED. Every run of the grid needs a result.
    """
    for path in contributed_files(folder):
        try:
            study = read_contributed(path)
            words = study.name, study.specs, study.store, data, device
            found = audit(*words, sample, retrain=False, seed=seed, by=by)
            why = refusal(found)
            if not why and sample:
                why = refusal(audit(*words, min(RETRAINED, sample), retrain=True, seed=seed, by=by))
        except RequestError as error:
            why = str(error)
        yield path.stem, printable(why)


def refusal(found: Audit) -> str:
    """Return why an audited study is refused, in one line; "" if it holds."""
    if found.faults:
        spec, text = found.faults[0]
        return f"{counted(len(found.faults), 'fault')}, the first in {spec.label} ({spec.run_id}): {text}"
    if found.absent:
        return found.absent[0]
    return "" if found.records else "it has no records"
