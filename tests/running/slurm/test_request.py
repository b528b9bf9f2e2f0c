"""Tests of `submit`: it submits what --dry-run shows, every missing run once, and no pending run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from pbt_bench.errors import RequestError
from pbt_bench.running.record import RunRecord
from pbt_bench.running.slurm.command import SlurmError
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.running.slurm.request import request
from pbt_bench.running.slurm.submissions import Submission, submissions
from pbt_bench.running.status import summary
from pbt_bench.running.store import Store
from pbt_bench.spec import Axes, Grid, Recipe

ROOT = Path(__file__).parents[3]
GRID = Grid(
    name="tiny",
    grid=Axes(dataset=("digits",), model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98), seed=(0, 1)),
)
PROFILE = Profile(gpus=1, runs_per_job=3, side_by_side=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "tiny")


def ask(store: Store, *, grid: Grid = GRID, profile: Profile = PROFILE, dry: bool = False, retry: bool = False) -> str:
    lines: list[str] = []
    request(grid, store, profile, Path("data"), dry_run=dry, retry_failed=retry, say=lines.append)
    return "\n".join(lines)


def submitted(store: Store) -> list[Submission]:
    return list(submissions(store.folder))


def test_a_dry_run_shows_the_very_script_and_writes_nothing(
    fake: Callable[[str, str], Path], store: Store, tmp_path: Path
) -> None:
    folder = fake("sacct", "#!/bin/sh\n")
    shown = ask(store, dry=True)
    assert "tiny: 10 runs: 10 to submit, 0 with a record" in shown
    assert "GPU hours: unknown" in shown
    assert all(spec.run_id in shown for spec in GRID.runs())
    assert not store.folder.exists()
    assert not (folder / "count").exists()

    assert "job 1000: 4 array elements for 10 runs" in ask(store)
    (submission,) = submitted(store)
    sent = (folder / "script-0").read_text()
    assert sent.replace(submission.folder.name, "SUBMISSION") in shown


def test_every_missing_run_is_in_one_element_as_the_node_will_read_it(
    fake: Callable[[str, str], Path], store: Store
) -> None:
    ask(store)
    (submission,) = submitted(store)
    assert submission.jobs == {0: "1000"}
    assert submission.settings.workers == 2
    assert submission.settings.device == "cuda"
    content = submission.elements[0]
    specs = [submission.specs(0, element) for element in range(len(content))]
    assert [[spec.run_id for spec in element] for element in specs] == content
    assert sorted(chain(*content)) == sorted(spec.run_id for spec in GRID.runs())
    assert set(chain(*specs)) == set(GRID.runs())


def test_what_is_in_the_queue_is_not_submitted_again_even_if_its_id_was_never_written_down(
    fake: Callable[[str, str], Path], store: Store
) -> None:
    ask(store)
    (submission,) = submitted(store)
    name = submission.job_name(0)
    queue = "".join(f"1000_{i}|{i}|PENDING||Resources|{name}\n" for i in range(3))
    other = "7_1|1|RUNNING|n1|None|somebody else's job\n"
    fake("squeue", f"#!/bin/sh\ncat <<'END'\n{queue}{other}END\n")
    rest = ask(store)
    on_the_way = sum(map(len, submission.elements[0][:3]))
    assert f"{10 - on_the_way} to submit, 0 with a record, {on_the_way} on their way in 3 jobs" in rest
    second = submitted(store)[-1]
    assert second.elements == [[submission.elements[0][3]]]

    (submission.folder / "jobs").unlink()
    (second.folder / "jobs").unlink()
    queue += f"1000_3|3|RUNNING|n1|None|{name}\n"
    fake("squeue", f"#!/bin/sh\ncat <<'END'\n{queue}{other}END\n")
    assert "0 to submit, 0 with a record, 10 on their way in 4 jobs" in ask(store)
    assert len(submitted(store)) == 2


def test_runs_whose_jobs_keep_dying_are_given_up_and_told_but_cancelled_ones_are_not(
    fake: Callable[[str, str], Path], store: Store
) -> None:
    for attempt in range(3):
        ask(store)
        job = 1000 + attempt
        lines = [f"{job}_0|OUT_OF_MEMORY|0:125", f"{job}_1|CANCELLED by 0|0:0", f"{job}_2|COMPLETED|0:0"]
        old = "" if attempt == 0 else Path(os.environ["PATH"].split(":")[0], "past").read_text()
        folder = fake("sacct", "#!/bin/sh\ncat {folder}/past\n")
        (folder / "past").write_text(old + "\n".join(lines) + "\n")
    sizes = [len(s.elements[0]) for s in submitted(store)]
    assert sizes == [4, 4, 4]
    said = ask(store)
    assert "lost 3 times" in said
    lost = sum(len(element) for element in (submitted(store)[0].elements[0][0], submitted(store)[0].elements[0][2]))
    assert f"{10 - lost} to submit" in said
    assert "10 to submit" in ask(store, retry=True)


def test_more_arrays_than_jobs_at_a_time_wait_for_each_other(fake: Callable[[str, str], Path], store: Store) -> None:
    folder = fake("scontrol", "#!/bin/sh\necho 'MaxArraySize = 2'\n")
    profile = Profile(runs_per_job=1, array_parallelism=2)
    assert "dependency=afterany:JOB_OF_ARRAY_2" in ask(store, profile=profile, dry=True)
    ask(store, profile=profile)
    scripts = [(folder / f"script-{number}").read_text() for number in range(5)]
    assert all("--array=0-1%1" in script for script in scripts)
    waits = [re.findall("dependency=(.*)", script) for script in scripts]
    assert waits == [[], [], ["afterany:1000"], ["afterany:1001"], ["afterany:1002"]]


def test_a_run_that_ends_while_slurm_is_asked_is_not_submitted_again(
    fake: Callable[[str, str], Path], store: Store
) -> None:
    ask(store)
    spec = GRID.runs()[0]
    store.write(RunRecord(run_id=spec.run_id, status="done", spec=spec))
    record = store.path(spec.run_id)
    late = record.rename(record.with_suffix(".late"))
    fake("squeue", f"#!/bin/sh\nmv {late} {record}\n")
    assert "9 to submit, 1 with a record" in ask(store)


def test_a_dry_run_says_what_it_does_not_know(fake: Callable[[str, str], Path], store: Store) -> None:
    ask(store)
    for command in ("squeue", "scontrol"):
        fake(command, "#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    said = ask(store, dry=True)
    assert "warning: squeue: Unable to contact slurm controller; runs in live jobs are not known" in said
    assert "warning: scontrol: Unable to contact slurm controller; arrays are shown as for MaxArraySize = 1001" in said


def test_failed_runs_are_submitted_only_on_request_and_redone_once(
    fake: Callable[[str, str], Path], store: Store
) -> None:
    specs = GRID.runs()
    store.prepare()
    for spec in specs[:2]:
        store.write(RunRecord(run_id=spec.run_id, status="failed", spec=spec, error="boom"))
    assert "8 to submit, 2 with a record, 2 failed (--retry-failed" in ask(store, dry=True)
    ask(store, retry=True)
    (submission,) = submitted(store)
    assert set(submission.settings.retried) == {spec.run_id for spec in specs[:2]}
    from pbt_bench.running.slurm.job import _missing

    retried = submission.settings.retried
    assert _missing(specs[0], store, retried)
    store.write(RunRecord(run_id=specs[0].run_id, status="failed", spec=specs[0], error="boom again"))
    assert not _missing(specs[0], store, retried), "a requeued job does not try it again"


def test_the_cost_is_estimated_from_measured_runs(fake: Callable[[str, str], Path], store: Store) -> None:
    spec = GRID.runs()[0]
    store.prepare()
    store.write(RunRecord(run_id=spec.run_id, status="done", spec=spec, environment={"seconds": 3600.0}))
    assert "GPU hours: about 4.5, TRES hours: about 4.5 (from 1 measured run)" in ask(store, dry=True), (
        "9 runs of 1 h, 2 at a time"
    )


@pytest.mark.parametrize(
    ("command", "script", "message"),
    [
        ("squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", "Unable to contact"),
        ("scontrol", "echo scontrol: error: down >&2; exit 1", "error: scontrol: down"),
        (
            "sbatch",
            "echo sbatch: error: invalid partition specified: gpux >&2; exit 1",
            "partition specified: gpux; 10",
        ),
    ],
)
def test_a_cluster_that_does_not_answer_or_refuses_is_one_line(
    fake: Callable[[str, str], Path],
    store: Store,
    capfd: pytest.CaptureFixture[str],
    command: str,
    script: str,
    message: str,
) -> None:
    ask(store)  # an earlier submission that has ended
    before = len(submitted(store))
    fake(command, f"#!/bin/sh\n{script}\n")
    with pytest.raises(RequestError) as caught:
        ask(store)
    assert message in f"error: {caught.value}"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    fake(command, "#!/bin/sh\necho Submitted batch job 2000\n" if command == "sbatch" else "#!/bin/sh\n")
    assert "10 to submit" in ask(store)
    assert len(submitted(store)) > before


def test_arrays_that_were_accepted_before_a_refusal_count(fake: Callable[[str, str], Path], store: Store) -> None:
    fake("scontrol", "#!/bin/sh\necho 'MaxArraySize = 2'\n")
    fake("sbatch", "#!/bin/sh\n[ -e {folder}/one ] && { echo limit >&2; exit 1; }\ntouch {folder}/one\necho job 5\n")
    with pytest.raises(SlurmError, match=r"limit; 5 runs were not submitted"):
        ask(store)
    (submission,) = submitted(store)
    assert submission.jobs == {0: "5"}
    queue = "".join(f"5_{i}|{i}|PENDING||Priority|{submission.job_name(0)}\n" for i in range(2))
    fake("squeue", f"#!/bin/sh\ncat <<'END'\n{queue}END\n")
    assert "5 to submit, 0 with a record, 5 on their way in 2 jobs" in ask(store, dry=True)


def test_submit_starts_without_torch(fake: Callable[[str, str], Path], tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_bytes(
        b'name="tiny"\n[grid]\ndataset=["digits"]\nmodel=["vgg8"]\nmethod=["snip"]\nsparsity=[0.9]\nseed=[0]\n'
    )
    code = (
        "import sys; from pbt_bench.cli import main; code = main(sys.argv[1:]);"
        "assert not any(name.split('.')[0] in ('torch', 'pandas') for name in sys.modules); sys.exit(code)"
    )
    words = ["submit", "tiny.toml", "--cluster", str(ROOT / "slurm/gpu.toml")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "job 1000: 1 array element for 2 runs" in done.stdout
    (folder,) = (tmp_path / "results/tiny/slurm").iterdir()
    assert json.loads((folder / "submission.json").read_text())["data"] == str(tmp_path / "data")


@pytest.mark.parametrize("name", ["%j", "a\\b", "a\n#SBATCH --hold"])
def test_a_folder_that_slurm_would_misread_is_refused(
    fake: Callable[[str, str], Path], tmp_path: Path, name: str
) -> None:
    store = Store(tmp_path / name / "tiny")
    with pytest.raises(RequestError, match="Slurm cannot write logs to a path with") as caught:
        ask(store)
    assert "\n" not in str(caught.value)
    assert not store.folder.exists()


LIMITED = """#!/bin/sh
case "$*" in
  *config*) echo 'MaxArraySize = 1001'; echo 'AccountingStorageEnforce = limits'; echo 'ClusterName = lab' ;;
  *partition*) echo 'PartitionName=main Default=YES QoS=N/A' ;;
esac
"""


def test_jobs_beyond_the_limit_of_the_user_are_held_back(fake: Callable[[str, str], Path], store: Store) -> None:
    fake("scontrol", LIMITED)
    folder = fake("sacctmgr", '#!/bin/sh\ncase "$*" in *" user "*) echo "chem|chem||5|" ;; esac\n')
    fake("squeue", '#!/bin/sh\ncase "$*" in *-u*) for i in 1 2; do echo "chem|normal|main"; done ;; esac\n')
    held = (
        "MaxSubmitJobs of the account chem = 5, and 2 jobs of yours in the queue: 3 runs are held back; "
        "submit again when jobs have ended"
    )
    profile = Profile(runs_per_job=3)
    said = ask(store, dry=True, profile=profile)
    assert "10 to submit" in said
    assert held in said
    assert "device cpu\n" in said
    assert "--array=0-2%3" in said
    assert "job 1000: 3 array elements for 7 runs" in ask(store, profile=profile)
    fake("squeue", '#!/bin/sh\ncase "$*" in *-u*) for i in 1 2 3 4 5; do echo "chem|normal|main"; done ;; esac\n')
    fake("sacct", '#!/bin/sh\nfor i in 0 1 2; do echo "1000_$i|CANCELLED|0:0"; done\n')
    assert "10 runs are held back; submit again" in ask(store, profile=profile)
    assert ask(store, profile=profile, dry=True).splitlines()[-1].startswith("job hours: unknown"), (
        "of all missing runs"
    )
    assert len(submitted(store)) == 1
    assert (folder / "count").read_text() == "1\n"


def test_a_refusal_by_a_limit_of_a_group_is_one_line(fake: Callable[[str, str], Path], store: Store) -> None:
    fake(
        "sbatch",
        "#!/bin/sh\necho 'sbatch: error: AssocGrpSubmitJobsLimit' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2\nexit 1\n",
    )
    with pytest.raises(SlurmError) as caught:
        ask(store)
    assert str(caught.value) == (
        "sbatch: AssocGrpSubmitJobsLimit: Batch job submission failed: Job violates accounting/QOS policy; "
        "10 runs were not submitted; submit again when jobs have ended"
    )


def test_a_probe_is_one_job_per_model_and_gives_an_estimate(fake: Callable[[str, str], Path], store: Store) -> None:
    profile = Profile(gpus="a100:1", side_by_side=2, runs_per_job=5, array_parallelism=9, cpus=4, data="$WORK/data")
    grid = msgspec.structs.replace(GRID, recipe=Recipe(epochs=8))
    lines: list[str] = []

    def probe(dry: bool) -> str:
        lines.clear()
        options = {"dry_run": dry, "retry_failed": False, "probe": True}
        request(grid, store, profile, Path("$WORK/data"), say=lines.append, **options)
        return "\n".join(lines)

    assert "2 runs at a time in each, device cuda (GPUs per job: a100:1)" in probe(dry=True)
    assert not store.folder.exists()
    assert (
        probe(dry=False) == "tiny, probes: 2 runs: 2 to submit, 0 with a record\njob 1000: 1 array element for 2 runs"
    )
    probes = Store(store.folder / "probe")
    (submission,) = submissions(probes.folder)
    assert submission.settings.data == "$WORK/data", "expanded on the node"
    specs = submission.specs(0, 0)
    assert [(spec.seed, spec.sparsity, spec.recipe.epochs) for spec in specs] == [(0, 0.9, 2), (1, 0.9, 2)]
    assert "GPU hours: unknown, because no run of this study was measured (submit --probe" in ask(
        store, grid=grid, profile=profile, dry=True
    )
    for spec in specs:
        probes.write(RunRecord(run_id=spec.run_id, status="done", spec=spec, environment={"seconds": 360.0}))
    assert probe(dry=False) == "tiny, probes: 2 runs: 0 to submit, 2 with a record"
    said = ask(store, grid=grid, profile=profile, dry=True)
    assert "GPU hours: about 0.5, TRES hours: about 2 (from 2 probes)" in said, "10 runs of 360 s, 2 at a time"
    state = summary(grid, store)
    assert state.line() == (
        "tiny: 10 runs: 10 missing (about 1 h 00 min with one worker; GPU hours: about 0.5, TRES hours: about 2)"
    )
    assert json.loads(state.to_json())["gpu_hours_left"] == 0.5
