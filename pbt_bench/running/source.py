"""The code of a run: its commit, uncommitted changes, and digests of the files of its method. No torch is imported."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from pbt_bench.errors import RequestError
from pbt_bench.identity import ORIGINAL_REVISION, TRAINING_REVISION
from pbt_bench.registry import source_digest
from pbt_bench.sparse.kernel_library import loaded
from pbt_bench.spec import DENSE, Revision, RunSpec
from pbt_bench.version import __version__

_ROOT = Path(__file__).parents[2]


@cache
def code_state() -> dict[str, Any]:
    """Return `commit`, and `dirty`: whether pbt_bench/ or methods/ had uncommitted changes or untracked files.

    For a version that pip installed from a repository, it is the commit that pip recorded. Both are None for any other
    code outside a clone. A process calls this first when it starts, because the clone may change later.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(_ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if (_ROOT / ".git").exists():
            changed = git("status", "--porcelain", "--untracked-files=all", "--", "pbt_bench", "methods")
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        pass
    commit = _installed_commit()
    return {"commit": commit, "dirty": False if commit else None}


def _installed_commit() -> str | None:
    """Return the commit that pip recorded for `pip install git+URL`, if this code is that installation."""
    try:
        installed = distribution("pbt-bench")
        if Path(str(installed.locate_file(""))).resolve() != _ROOT.resolve():
            return None
        commit = json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
        return str(commit)
    except (PackageNotFoundError, OSError, ValueError, KeyError):
        return None


def versions() -> str:
    """Return the versions of this code, its commit, torch, and the instruction set of the kernels in one line."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    state = code_state()
    commit = f"{state['commit'] or 'unknown'}{' with uncommitted changes' * bool(state['dirty'])}"
    kernels = found.set if (found := loaded()) else "none"
    return f"pbt-bench {__version__}, commit {commit}, torch {torch}, kernels {kernels}"


def code_revisions(spec: RunSpec) -> dict[str, Revision]:
    """Return the revisions that are not 1 of the code that a run of `spec` executes.

    Raises RequestError if a name of `spec` is unknown.
    """
    from pbt_bench.data import dataset_revision
    from pbt_bench.models import model_revision
    from pbt_bench.pruning.plugins import method_revisions, scope_revisions

    found: dict[str, Revision] = {
        "training": TRAINING_REVISION,
        f"dataset {spec.dataset}": dataset_revision(spec.dataset),
        f"model {spec.model}": model_revision(spec.model),
    }
    if spec.method != DENSE:
        found |= method_revisions(spec.method) | scope_revisions(spec.scope)
        found["original"] = ORIGINAL_REVISION if spec.protocol == "original" else 1
    return {name: value for name, value in found.items() if value != 1}


def method_source_digest(spec: RunSpec) -> str | None:
    """Return 12 hex digits of a SHA-256 over the files of a run's method, its statistics and its scope.

    None for the dense baseline.
    """
    from pbt_bench.pruning.plugins import pruners, scopes, statistics

    if spec.method == DENSE:
        return None
    entry, scope = pruners()[spec.method], scopes()[spec.scope]
    origins = [pruners().origin(entry.name), *map(statistics().origin, entry.needs)]
    origins += [scopes().origin(entry.scope or scope.name)]
    files = {Path(where.rpartition(":")[0]) for where in origins}
    found = sorted(f"{path.name} {source_digest(path)}" for path in files)
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def check_revisions(spec: RunSpec) -> None:
    """Raise RequestError if this process has loaded another revision of the code than `spec` names."""
    loaded = code_revisions(spec)
    if loaded != spec.revisions:
        raise RequestError(f"{difference(spec.revisions, loaded)}: the file was edited while the study runs")


def difference(old: dict[str, Revision], new: dict[str, Revision]) -> str:
    """Name every revision that differs, for example `method synflow is at revision 2, not 1`."""
    names = sorted(name for name in {**old, **new} if old.get(name, 1) != new.get(name, 1))
    return ", ".join(f"{name} is at revision {new.get(name, 1)}, not {old.get(name, 1)}" for name in names)
