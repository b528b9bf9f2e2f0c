"""Submit runs to a Slurm cluster as job arrays, with submitit."""

from __future__ import annotations

import contextlib
import io
import re
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
from pbt_bench.running.slurm.submissions import Settings, Submission

# A signal before Python has installed its handlers must not kill the job; Slurm itself requeues a preempted job.
_TRAP = """sh -c 'trap "" USR2 TERM; exec "$@"' sh"""


class _Executor(SlurmExecutor):
    """submitit's executor, which can also be created without Slurm, to show a submission."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def executor(folder: Path, profile: Profile) -> _Executor:
    """Create submitit's executor for `profile`."""
    wanted = {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint")}
    memory = None if profile.memory is None else str(profile.memory)
    wanted |= {"gpus_per_node": profile.gpus or None, "gpus_per_task": profile.gpus_per_task or None, "mem": memory}
    options: dict[str, str | int | bool] = {"requeue": True, **profile.sbatch}
    if profile.clusters:
        options["clusters"] = profile.clusters
    if profile.gpus_per_task:
        options["ntasks"] = 1  # Slurm 23.11 refuses --gpus-per-task without it
    words = [_TRAP, profile.wrap, shlex.quote(profile.python or sys.executable)]
    made = _Executor(folder, max_num_timeout=profile.requeues, python=" ".join(word for word in words if word))
    made.update_parameters(
        time=profile.minutes,
        ntasks_per_node=1,
        cpus_per_task=profile.cpus,
        setup=_setup(profile) or None,
        signal_delay_s=profile.signal_delay,
        srun_args=["--cpus-per-task", str(profile.cpus)],  # since Slurm 22.05 srun does not inherit it from sbatch
        wckey=None,
        additional_parameters=options,
        **{name: value for name, value in wanted.items() if value is not None},
    )
    return made


def _setup(profile: Profile) -> list[str]:
    """Return the shell lines of a job before its command: modules, variables, and the lines of the user."""
    modules = [f"module load {' '.join(profile.modules)} || exit 1"] if profile.modules else []
    # In double quotes $NAME is expanded, which is all that the profile allows.
    values = {name: re.sub(r'(["\\])', r"\\\1", str(value)) for name, value in profile.env.items()}
    return [*modules, *(f'export {name}="{value}"' for name, value in values.items()), *profile.setup]


def script(folder: Path, profile: Profile, arrays: int, array: int, elements: int) -> str:
    """Return the script that `submit` passes to sbatch for one array."""
    made = executor(folder, profile)
    _set_array(made, Submission(folder), profile, arrays, array)
    if elements > 1:
        made.parameters["map_count"] = elements
    return made._make_submission_file_text(made._submitit_command_str, "")


def _set_array(made: _Executor, submission: Submission, profile: Profile, arrays: int, array: int) -> None:
    """Set the name, parallelism and dependency of one array; an unknown job id is left as a placeholder."""
    at_a_time, before = share(profile.array_parallelism, arrays, array)
    made.update_parameters(job_name=submission.job_name(array), array_parallelism=at_a_time)
    if before is not None:
        job = submission.jobs.get(before, f"JOB_OF_ARRAY_{before}")
        made.update_parameters(dependency=f"afterany:{job}")


def submit(
    settings: Settings, profile: Profile, arrays: Sequence[Sequence[Element]], say: Callable[[str], None]
) -> None:
    """Submit `arrays` one after another. Raises SlurmError at the first refusal; earlier arrays stay submitted."""
    submission = Submission.create(settings, arrays)
    made = executor(submission.folder, profile)
    for number, array in enumerate(arrays):
        _set_array(made, submission, profile, len(arrays), number)
        count = len(array)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints the message of the error
                job = Job()  # type: ignore[no-untyped-call]
                jobs = made.map_array(job, [submission.folder] * count, [number] * count, range(count))
        except (FailedJobError, FailedSubmissionError) as error:
            left = sum(len(element) for array in arrays[number:] for element in array)
            message = f"sbatch: {gist(str(error))}; {left} runs were not submitted"
            if "Limit" in message:  # such as AssocGrpSubmitJobsLimit
                message += "; submit again when jobs have ended"
            raise SlurmError(message) from None
        name = jobs[0].job_id.split("_")[0]
        submission.accepted(number, name)
        runs = sum(len(element) for element in array)
        say(f"job {name}: {counted(count, 'array element')} for {runs} runs")
