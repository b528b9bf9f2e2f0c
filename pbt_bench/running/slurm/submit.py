"""Submit runs to a Slurm cluster as job arrays, with submitit."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from pbt_bench.errors import counted
from pbt_bench.running.slurm.command import SlurmError, gist
from pbt_bench.running.slurm.job import Job
from pbt_bench.running.slurm.pack import Element, share
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.running.slurm.submissions import Settings, Submission, job_name

# A signal before Python has installed its handlers must not kill the job; Slurm itself requeues a preempted job.
_PYTHON = """sh -c 'trap "" USR2 TERM; exec "$@"' sh """


class _Executor(SlurmExecutor):
    """submitit's executor, which can also be created without Slurm, to show a submission."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def executor(folder: Path, study: str, profile: Profile) -> _Executor:
    """Create submitit's executor for `profile`."""
    wanted = {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint")}
    wanted |= {"gpus_per_node": profile.gpus or None, "mem": profile.memory}
    made = _Executor(folder, max_num_timeout=profile.requeues, python=_PYTHON + shlex.quote(sys.executable))
    made.update_parameters(
        job_name=job_name(study),
        time=profile.minutes,
        ntasks_per_node=1,
        cpus_per_task=profile.cpus,
        setup=list(profile.setup) or None,
        signal_delay_s=profile.signal_delay,
        srun_args=["--cpus-per-task", str(profile.cpus)],  # since Slurm 22.05 srun does not inherit it from sbatch
        additional_parameters={"requeue": True, **profile.sbatch},
        **{name: value for name, value in wanted.items() if value is not None},
    )
    return made


def script(folder: Path, study: str, profile: Profile, arrays: int, array: int, elements: int) -> str:
    """Return the script that `submit` passes to sbatch for one array."""
    made = executor(folder, study, profile)
    _set_array(made, Submission(folder), profile, arrays, array)
    if elements > 1:
        made.parameters["map_count"] = elements
    return made._make_submission_file_text(made._submitit_command_str, "")


def _set_array(made: _Executor, submission: Submission, profile: Profile, arrays: int, array: int) -> None:
    """Set the comment, parallelism and dependency of one array; an unknown job id is left as a placeholder."""
    at_a_time, before = share(profile.array_parallelism, arrays, array)
    made.update_parameters(comment=submission.comment(array), array_parallelism=at_a_time)
    if before is not None:
        job = submission.jobs.get(before, f"JOB_OF_ARRAY_{before}")
        made.update_parameters(dependency=f"afterany:{job}")


def submit(
    settings: Settings, study: str, profile: Profile, arrays: Sequence[Sequence[Element]], say: Callable[[str], None]
) -> None:
    """Submit `arrays` one after another. Raises SlurmError at the first refusal; earlier arrays stay submitted."""
    submission = Submission.create(settings, arrays)
    made = executor(submission.folder, study, profile)
    for number, array in enumerate(arrays):
        _set_array(made, submission, profile, len(arrays), number)
        count = len(array)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints the message of the error
                job = Job()  # type: ignore[no-untyped-call]
                jobs = made.map_array(job, [submission.folder] * count, [number] * count, range(count))
        except (FailedJobError, FailedSubmissionError) as error:
            left = sum(len(element) for array in arrays[number:] for element in array)
            raise SlurmError(f"sbatch: {gist(str(error))}; {left} runs were not submitted") from None
        name = jobs[0].job_id.split("_")[0]
        submission.accepted(number, name)
        runs = sum(len(element) for element in array)
        say(f"job {name}: {counted(count, 'array element')} for {runs} runs")
