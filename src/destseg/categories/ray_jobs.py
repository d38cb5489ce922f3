"""Jobs as Ray tasks: side by side as far as there are CPUs and GPUs, retried where one was lost.

A task runs in a worker process: one after another in the same, with a GPU each in one of its own,
which gives its memory back.  Ray runs a task again when its process or machine is lost, and
``run_job`` then goes on from the last state that was saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from destseg.categories.job import JobOutcome, run_job
from destseg.categories.plan import TrainingJob
from destseg.errors import SettingsError, TrainingInterrupted
from destseg.interruption import Interruption
from destseg.ray_session import Needs, session

SECONDS_TO_SAVE = 60.0
_POLL = 1.0
_MEMORY_OF_OBJECTS = 100 * 2**20  # jobs exchange paths, not images


@dataclass(frozen=True)
class Resources:
    """What a job is given.

    Attributes:
        cpus: CPUs, and threads that it computes with.
        gpus: GPUs; 0.5 lets two jobs share one.
        retries: how often it goes on after its worker was lost.
        address: of a Ray cluster; ``None`` starts one on this machine and ends it afterwards.
    """

    cpus: int = 1
    gpus: float = 0.0
    retries: int = 3
    address: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.cpus < 1:
            problems.append(f"--cpus: expected at least 1, got {self.cpus}")
        if not 0 <= self.gpus < float("inf") or (self.gpus > 1 and self.gpus % 1):
            problems.append(
                f"--gpus: expected 0, a part of one or a whole number, got {self.gpus:g}"
            )
        if self.retries < 0:
            problems.append(f"--retries: expected at least 0, got {self.retries}")
        if problems:
            raise SettingsError("\n".join(problems))


def run_on_ray(
    jobs: Sequence[TrainingJob],
    resources: Resources,
    on_poll: Callable[[Sequence[TrainingJob]], object] = lambda _: None,
) -> Iterator[JobOutcome]:
    """Do jobs side by side and yield their outcomes as they come.

    Args:
        jobs: what is to be done; settings name files as seen from the working directory.
        resources: of each job.
        on_poll: called about every second with the jobs that have no outcome yet.

    Raises:
        MissingExtraError: without the extra ``ray``.
        SettingsError: if this machine cannot give what a job is to have, or there is no cluster.
        DestsegError: if Ray does not start.
        TrainingInterrupted: after SIGINT or SIGTERM; states are saved.
    """
    if not jobs:
        return
    with _session(resources) as ray, Interruption().watch() as interruption:
        task = _task(ray, resources)
        waiting = {task.remote(job, str(Path.cwd())): job for job in jobs}
        done = 0
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL)
            if (number := interruption.signal) is not None:
                _stop(ray, list(waiting))
                name = signal.Signals(number).name
                raise TrainingInterrupted(
                    number,
                    f"stopped by {name} with {done} of {len(jobs)} jobs done; the states of the "
                    "others are saved. Go on with the same command.",
                )
            for reference in ready:
                job = waiting.pop(reference)
                done += 1
                yield _outcome(ray, reference, job, resources)
            on_poll(list(waiting.values()))


def do(job: TrainingJob, directory: str) -> JobOutcome:
    """Do a job where the command was given, so that relative paths in its settings lead there.

    It changes the working directory for good: that of a process of Ray's.
    """
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        os.chdir(directory)
    return run_job(job)


def _task(ray: Any, resources: Resources) -> Any:
    variables = {"OMP_NUM_THREADS": str(resources.cpus)}
    if not resources.gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # those that are there are other jobs'
    return ray.remote(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_retries=resources.retries,
        # A machine that is shut down ends its jobs with SIGTERM; all else is the job's own fault.
        retry_exceptions=[TrainingInterrupted],
        runtime_env={"env_vars": variables},
    )(do)


def _outcome(ray: Any, reference: Any, job: TrainingJob, resources: Resources) -> JobOutcome:
    try:
        outcome: JobOutcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return JobOutcome(
            job,
            reason=f"its worker was lost, also after {resources.retries} more attempts "
            f"({type(error).__name__}: {first}). The same command goes on from its last state.",
        )
    return outcome


def _stop(ray: Any, references: list[Any]) -> None:
    """Ask jobs to save their states and to end, and give them time to."""
    for reference in references:
        ray.cancel(reference, force=False)
    deadline = time.monotonic() + SECONDS_TO_SAVE
    while references and time.monotonic() < deadline:
        _, references = ray.wait(references, num_returns=len(references), timeout=_POLL)


def _session(resources: Resources) -> contextlib.AbstractContextManager[Any]:
    return session(
        resources.address,
        Needs(resources.cpus, resources.gpus),
        flags="--cpus, --gpus",
        what_for="train-many",
        object_store_memory=_MEMORY_OF_OBJECTS,
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        # Also a job that the memory does not hold is given up some time.
        RAY_task_oom_retries=str(resources.retries),
    )
