"""`train --jobs FILE.jsonl`: many B-LoRAs, one job a process, nothing trained twice, failed jobs named.

Any number of processes, on one machine or several that share the folder, work on one list: the process that
claims a job first trains it. A claim is a file next to the output that its owner touches regularly; the claim of a
process that died is taken over.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ..backend.processes import processes
from ..errors import ReCharError, RecipeError
from ..lora import files
from ..lora.metadata import json_object
from ..training.run import Step
from .train import INPUTS, RunContext, TrainJob, inputs, load_base, read_pictures, train_on

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

_STALE = 600.0  # seconds without a sign of life after which another machine's claim is void
_REFRESH = 30.0  # seconds between signs of life
_WAIT = 1.0  # seconds between looks at what other processes still train


def read_jobs(path: Path, job_of: Callable[[Mapping[str, Any]], TrainJob]) -> list[TrainJob]:
    """The jobs of a JSONL file, one object a line. Raises RecipeError, naming the line, before anything is trained."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The list of jobs {path} cannot be read ({error}).") from None
    jobs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise RecipeError('it is not an object like {"image": "a.png", "output": "a.safetensors"}')
            jobs.append(job_of(values))
        except (ValueError, TypeError, ReCharError) as error:
            raise RecipeError(f"{path}, line {number}: {error}") from None
    if not jobs:
        raise RecipeError(f"{path}: there is no job in it.")
    written = Counter(file.resolve() for job in jobs for file in (job.output, job.log) if file)
    twice = sorted(str(file) for file, times in written.items() if times > 1)
    if twice:
        raise RecipeError(f"{path}: several jobs write {twice[0]}; give each line names of its own.")
    return jobs


def train_all(jobs: list[TrainJob], report: Callable[[str], None]) -> list[Path]:
    """Trains what no other process trains, until all jobs are done or have failed; returns the outputs of all.

    Raises RecipeError at the end, naming them, if jobs failed: the same command tries those again.
    """
    here = processes()
    if here.is_main_process:
        for job in jobs:  # what failed in a former launch is tried again
            job.beside(".failed").unlink(missing_ok=True)
    here.wait_for_everyone()
    worker = _Worker(jobs, report, here.device)
    try:
        while open_jobs := worker.open_jobs():
            if not any(map(worker.attempt, open_jobs)):
                time.sleep(_WAIT)  # others train all that is left; if one of them dies, its job becomes free
    finally:
        worker.release()
    failed = {job: failure(job) for job in jobs if failure(job)}
    if failed:
        listed = "; ".join(f"{job.output}: {why}" for job, why in failed.items())
        raise RecipeError(
            f"{len(failed)} of {len(jobs)} jobs failed (run the command again to retry). {listed}"
        )
    return [job.output for job in jobs]


def check_output(job: TrainJob) -> None:
    """Raises RecipeError, saying what differs, if the output holds another training than the job's.

    Pictures that are gone are not compared, nor are those of files of older versions, which do not record them.
    """
    if not job.output.is_file():
        return
    blora = files.read(job.output)
    trained = {**type(job.recipe)().to_json(), **(blora.recipe or {})}
    free = ("memory", "precision") if job.any_precision else ("memory",)
    wanted = {name: value for name, value in job.recipe.to_json().items() if name not in free}
    changed = [name for name in wanted if trained.get(name) != wanted[name]]
    recorded = json_object(blora.metadata.get(INPUTS, ""))
    with suppress(ReCharError, OSError):
        changed += [name for name, value in inputs(job).items() if recorded.get(name, value) != value]
    if changed:
        raise RecipeError(
            f"{job.output} already holds a training with another {', '.join(changed)}; "
            "choose another output, or delete that file."
        )


def failure(job: TrainJob) -> str:
    """Why the job failed in this launch; "" if it did not."""
    note = job.beside(".failed")
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


@dataclass
class _Worker:
    """One process that works on the list.

    held: the claim file it owns, and mark: its content. base: the last model it loaded, reused for the next job.
    refreshed: when it last touched the claim.
    """

    jobs: list[TrainJob]
    report: Callable[[str], None]
    device: torch.device
    held: Path | None = None
    mark: str = ""
    base: tuple[tuple[str, torch.dtype, bool], StableDiffusionXLPipeline] | None = None
    refreshed: float = 0.0

    def open_jobs(self) -> list[TrainJob]:
        return [job for job in self.jobs if not failure(job) and not job.output.is_file()]

    def attempt(self, job: TrainJob) -> bool:
        """Trains the job unless another process does. Returns whether this process tried it."""
        if not self._claim(job):
            return False
        try:
            if not job.output.is_file():  # another process finished it before we claimed it
                self._tell(job, "begins")
                train_on(self._pipeline(job), [job], read_pictures(job), self._context(job))
                self._tell(job, "is done")
        except Exception as error:  # whatever one job dies of, the others go on
            reason = str(error).strip() or type(error).__name__
            job.beside(".failed").write_text(reason, encoding="utf-8")
            self._tell(job, f"failed: {reason}")
        finally:
            self.release()
        return True

    def release(self) -> None:
        if self.held is not None and _content(self.held) == self.mark:
            self.held.unlink(missing_ok=True)
        self.held = None

    def _context(self, job: TrainJob) -> RunContext:
        def stepped(step: Step) -> None:
            now = time.monotonic()
            if now - self.refreshed > _REFRESH and self.held is not None:
                self.refreshed = now
                with suppress(OSError):  # another process took it, because this one was suspended for long
                    os.utime(self.held)
                self._tell(job, f"is at step {step.number} of {step.total}, loss {float(step.loss):.4f}")

        def tell(text: str) -> None:  # `say` prints in the first process only
            self.report(f"{job.output.name}: {text}")

        return RunContext(self.device, bar=False, stepped=stepped, tell=tell)

    def _pipeline(self, job: TrainJob) -> StableDiffusionXLPipeline:
        key = job.model, job.dtype, job.recipe.fp8_base
        if self.base is None or self.base[0] != key:
            self.base = None  # frees the old one's memory before the new one is loaded
            self.base = key, load_base(job)
        return self.base[1]

    def _claim(self, job: TrainJob) -> bool:
        claim = job.beside(".claim")
        claim.parent.mkdir(parents=True, exist_ok=True)
        dead = _dead(claim)
        if dead is not None:
            _take_away(claim, dead)
        mark = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "wb") as file:
                file.write(mark.encode())
        except FileExistsError:
            return False
        self.held, self.mark, self.refreshed = claim, mark, time.monotonic()
        return True

    def _tell(self, job: TrainJob, what: str) -> None:
        done = sum(other.output.is_file() for other in self.jobs)
        self.report(f"[{done} of {len(self.jobs)} jobs done] {job.output.name} {what}")


def _content(claim: Path) -> str | None:
    try:
        return claim.read_text(encoding="utf-8")
    except OSError:  # there is none, or no more
        return None


def _dead(claim: Path) -> str | None:
    """A claim's content if its owner is gone: a process of this machine that ended, or any that was silent for long."""
    try:
        content, silent = claim.read_text(encoding="utf-8"), time.time() - claim.stat().st_mtime
    except OSError:  # there is none, or no more
        return None
    host, pid, *_ = [*content.split(), "", ""]
    ended = host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))
    # a living process may have a dead one's number, so that silence counts on this machine as well
    return content if ended or silent > _STALE else None


def _take_away(claim: Path, dead: str) -> None:
    """Removes the claim with the content `dead`, by a rename that only one of several processes can do."""
    grave = claim.with_name(f"{claim.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        claim.rename(grave)
    except OSError:
        return
    if _content(grave) != dead:  # another process was faster, and this is its own claim
        with suppress(OSError):
            os.link(grave, claim)  # unlike a rename, never over a third one's
    grave.unlink(missing_ok=True)
