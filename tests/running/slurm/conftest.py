"""Scripts that replace the Slurm commands, in a folder at the front of the PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SBATCH = """#!/bin/sh
n=$(cat {folder}/count 2>/dev/null || echo 0); echo $((n + 1)) > {folder}/count
cat "$1" > {folder}/script-$n
echo "Submitted batch job $((1000 + n))"
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return `fake(command, script)`, which replaces a command. sbatch keeps its input, squeue prints nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(text.replace("{folder}", str(folder)))
        path.chmod(0o755)
        return folder

    put("sbatch", SBATCH)
    put("scontrol", "#!/bin/sh\necho 'MaxArraySize            = 1001'\n")
    for name in ("srun", "squeue", "sacct", "scancel"):
        put(name, "#!/bin/sh\n")
    return put
