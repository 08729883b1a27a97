"""Reads broken files by the thousand in processes of their own, and counts what becomes of them.

Every input is made from two numbers, the campaign's seed and its own, and read under two limits: a process
may grow by :data:`MEMORY_BYTES`, and an input may take :data:`SECONDS` of processor time. A worker that dies
or hangs is replaced and the input that did it is a finding, like every exception that is not one of ours.
"""

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from .targets import TARGETS, Target, attempt

__all__ = ["MEMORY_BYTES", "SECONDS", "Campaign", "Finding", "Tally", "make", "run", "try_one"]

MEMORY_BYTES = 1 << 29
"""By how much reading one file may let a process grow."""

SECONDS = 5.0
"""Processor time that reading one file may take."""

_STUCK_SECONDS = 120.0
"""After which a worker that has not come to its next input is killed: its time limit did not help."""

_REPORT_SECONDS = 0.5


# Not an Exception: nothing that handles errors may catch it.
class _TooSlow(BaseException):
    """The processor time of an input is over."""


@dataclass
class Tally:
    """What became of the inputs of one target.

    Parameters
    ----------
    accepted, refused, failed
        How many were read, refused in our own words, or are findings.
    messages
        Different refusals, names and numbers left out.
    slowest
        Most processor time that an input took.
    """

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    messages: set[str] = field(default_factory=set)
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        """All of them."""
        return self.accepted + self.refused + self.failed

    def add(self, other: "Tally") -> None:
        """Count what another one counted as well."""
        self.accepted += other.accepted
        self.refused += other.refused
        self.failed += other.failed
        self.messages |= other.messages
        self.slowest = max(self.slowest, other.slowest)


@dataclass(frozen=True)
class Finding:
    """An input that ended as none should.

    Parameters
    ----------
    index
        Of the input in its campaign.
    target
        Name of the target.
    key
        What it has in common with others of its kind: the exception and the line of ours that it came from.
    report
        The traceback, or what happened to the worker.
    """

    index: int
    target: str
    key: str
    report: str


@dataclass
class Campaign:
    """What came of a run.

    Parameters
    ----------
    seed
        What all of it can be made again from.
    tallies
        By name of the target.
    findings
        The first of each kind.
    seconds
        By the clock.
    peak_bytes
        By how much the largest worker grew.
    """

    seed: int
    tallies: dict[str, Tally]
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return sum(tally.inputs for tally in self.tallies.values())


def make(seed: int, index: int, targets: Sequence[Target] = TARGETS) -> tuple[Target, bytes]:
    """An input of a campaign: what it is for, and the file.

    Parameters
    ----------
    seed, index
        Of the campaign, and of the input in it.
    targets
        Those of the campaign.
    """
    rng = Random(f"{seed}:{index}")
    target = rng.choices(targets, [target.share for target in targets])[0]
    return target, target.make(rng)


def try_one(target: Target, data: bytes, folder: Path) -> tuple[str, str, str]:
    """Read a file under the time limit: ``(outcome, message or key, report)``.

    The outcome is ``accepted``, ``refused`` or ``failed``.

    Parameters
    ----------
    target, data
        The reader, and the content of the file.
    folder
        Where it is put.
    """
    own = folder / re.sub(r"\W+", "-", target.name)
    path = own / target.file
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        own.mkdir()
        path.write_bytes(data)
    try:
        with _limited():
            message = attempt(target, path)
    except _TooSlow as error:
        return "failed", f"took more than {SECONDS:g} s in {_place(error)}", traceback.format_exc(limit=-8)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", f"{type(error).__name__} in {_place(error)}", traceback.format_exc(limit=-8)
    return ("refused", message, "") if message else ("accepted", "", "")


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _place(error: BaseException) -> str:
    """The innermost line of ours, or of whatever there is."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if re.search(r"/(hw|sim|gen|boards)/", f.filename) and "/hostile/" not in f.filename
    ]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}, {frame.name}"


def _shape(message: str) -> str:
    """A refusal without what is different in each file."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+|\[[^]]*\]|\([^)]*\)", "_", message)[:120]


# Workers


def _work(
    pipe: Any, now: Any, seed: int, indices: Sequence[int], skip: frozenset[int], targets: Sequence[Target]
) -> None:
    """Tries inputs in order; sends ``(last index, tallies, findings, growth)`` now and then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # All that is made once is made before the limit counts.
    for target in targets:
        target.make(Random(0))
    parent = os.getppid()
    base = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY_BYTES, base + MEMORY_BYTES))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tallies: dict[str, Tally] = {}
    findings: list[Finding] = []
    reported = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as name:
        folder = Path(name)
        for index in indices:
            if index in skip:
                continue
            if os.getppid() != parent:
                return  # whoever wanted to know has gone
            now.value = index
            target, data = make(seed, index, targets)
            began = time.process_time()
            outcome, text, report = try_one(target, data, folder)
            tally = tallies.setdefault(target.name, Tally())
            tally.slowest = max(tally.slowest, time.process_time() - began)
            if outcome == "accepted":
                tally.accepted += 1
            elif outcome == "refused":
                tally.refused += 1
                tally.messages.add(_shape(text.replace(name, "")))
            else:
                tally.failed += 1
                findings.append(Finding(index, target.name, text, report.replace(name, "")))
            if time.monotonic() > reported + _REPORT_SECONDS:
                growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
                pipe.send((index, tallies, findings, growth))
                tallies, findings, reported = {}, [], time.monotonic()
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
        pipe.send((None, tallies, findings, growth))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _memory_folder() -> str | None:
    """Where files cost nothing to write; None for the usual place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class _Worker:
    """A process, and what is known of it."""

    def __init__(
        self, seed: int, indices: range, skip: frozenset[int], targets: Sequence[Target], context: Any
    ):
        self.indices, self.skip = indices, skip
        self.pipe, theirs = context.Pipe(duplex=False)
        self.now = context.Value("q", -1, lock=False)
        self.process = context.Process(
            target=_work, args=(theirs, self.now, seed, indices, skip, targets), daemon=True
        )
        self.process.start()
        theirs.close()
        self.seen, self.since = -1, time.monotonic()

    def stuck(self) -> bool:
        """Whether it has not come to another input for too long."""
        if self.now.value != self.seen:
            self.seen, self.since = self.now.value, time.monotonic()
        return time.monotonic() > self.since + _STUCK_SECONDS

    def after(self, index: int) -> range:
        """The inputs that come after one of its own."""
        return self.indices[self.indices.index(index) + 1 :]


def run(
    *,
    seed: int,
    inputs: int | None = None,
    seconds: float | None = None,
    workers: int = 1,
    targets: Sequence[Target] = TARGETS,
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Try so many inputs, or for so long.

    Parameters
    ----------
    seed
        What they are made from.
    inputs, seconds
        When to stop; the first that is reached.
    workers
        Processes at a time.
    targets
        What is read.
    progress
        Told every few seconds what was found so far.
    """
    context = multiprocessing.get_context("fork")
    total = inputs if inputs is not None else 1 << 40
    found = Campaign(seed, {target.name: Tally() for target in targets})
    began = time.monotonic()
    told = began
    kinds: set[tuple[str, str]] = set()

    def note(finding: Finding) -> None:
        if (finding.target, finding.key) not in kinds:
            kinds.add((finding.target, finding.key))
            found.findings.append(finding)

    def start(indices: range, skip: frozenset[int] = frozenset()) -> _Worker:
        return _Worker(seed, indices, skip, targets, context)

    def receive(worker: _Worker) -> bool:
        """Take what a worker has sent; whether it has nothing left to do."""
        try:
            while worker.pipe.poll():
                index, tallies, findings, growth = worker.pipe.recv()
                for name, tally in tallies.items():
                    found.tallies[name].add(tally)
                for finding in findings:
                    note(finding)
                found.peak_bytes = max(found.peak_bytes, growth)
                if index is None:
                    return True
                worker.indices = worker.after(index)
        except EOFError:
            pass
        return False

    running = [start(range(number, total, workers)) for number in range(workers)]
    try:
        while running and (seconds is None or time.monotonic() < began + seconds):
            multiprocessing.connection.wait([worker.pipe for worker in running], timeout=1.0)
            for number, worker in reversed(list(enumerate(running))):
                if receive(worker):
                    worker.process.join()
                    del running[number]
                    continue
                if worker.process.is_alive() and not worker.stuck():
                    continue
                # It died, or has to: the input that it was at is left out next time.
                reason = f"did not end within {_STUCK_SECONDS:g} s"
                if not worker.process.is_alive():
                    worker.process.join()
                    if receive(worker):
                        del running[number]
                        continue
                    reason = f"the process ended with {worker.process.exitcode}"
                worker.process.kill()
                worker.process.join()
                index = worker.now.value
                if index < 0:
                    raise RuntimeError(f"a worker did not start: {reason}")
                target, _ = make(seed, index, targets)
                found.tallies[target.name].failed += 1
                note(Finding(index, target.name, reason, reason))
                running[number] = start(worker.indices, worker.skip | {index})
            found.seconds = time.monotonic() - began
            if progress and time.monotonic() > told + 10:
                told = time.monotonic()
                progress(found)
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()
            receive(worker)
    found.seconds = time.monotonic() - began
    return found


def keep(campaign: Campaign, folder: Path, targets: Sequence[Target] = TARGETS) -> list[Path]:
    """Write the findings' inputs to a folder, each beside its report; what was there is removed.

    Parameters
    ----------
    campaign
        What came of a run.
    folder
        Where they go.
    targets
        Those of the run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    paths = []
    for finding in campaign.findings:
        target, data = make(campaign.seed, finding.index, targets)
        digest = hashlib.sha256(data).hexdigest()[:8]
        path = folder / f"{Path(target.file).stem}-{digest}{Path(target.file).suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        heading = f"{finding.target}: {finding.key}\nseed {campaign.seed}, input {finding.index}\n\n"
        path.with_name(path.name + ".txt").write_text(heading + finding.report, encoding="utf-8")
        paths.append(path)
    return paths
