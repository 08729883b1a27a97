"""Proves what is in the catalogue: ``python -m bitwright.gen.formal``, or ``scripts/formal`` in a clone."""

import argparse
import fnmatch
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision
from bitwright.hw.reduce.carry import FABRICS
from bitwright.sim.tools import ToolError

from ..proof import NotProvedError, prove
from ..record import Record, write
from ..toolchain import ToolFailedError, ToolTimeoutError, versions
from .catalogue import PROOFS, Proof
from .solver import DisprovedError
from .units import CASES, UnitCase

__all__ = ["Job", "jobs", "main"]


@dataclass(frozen=True)
class Job:
    """A proof, or those of a dot-product unit on every fabric.

    Parameters
    ----------
    name
        As it is called on the command line.
    component, claim, method, bounds
        For the table.
    quick
        Whether it is also a test.
    run
        Proves it in a folder, within so many seconds; returns how many claims there are.
    """

    name: str
    component: str
    claim: str
    method: str
    bounds: str
    quick: bool
    run: Callable[[Path, float], int]


def _of_proof(proof: Proof) -> Job:
    def run(folder: Path, timeout: float) -> int:
        return len(proof.run(folder, timeout=timeout).claims)

    return Job(proof.name, proof.component, proof.claim, proof.method, proof.bounds, proof.quick, run)


def _of_unit(case: UnitCase) -> Job:
    precision = Precision.parse(case.precision)

    def run(folder: Path, timeout: float) -> int:
        for fabric in FABRICS:
            spec = UNITS[case.name](precisions=(precision,), reduction=16, fabric=fabric, **case.parameters)
            prove(spec, precision, folder, lengths=case.lengths, free=case.free, timeout=timeout)
        return 2 * len(FABRICS)

    lanes = case.parameters["lanes"]
    steps = " and ".join(map(str, case.lengths))
    return Job(
        case.label,
        f"pe/{case.name}.py",
        "Each result is the sum of products of the operands' values, comes when the contract says, and "
        "nothing else comes.",
        "bounded: dot products from a reset",
        f"{lanes} lanes, {case.precision}, dot products of {steps} steps, {case.free} elements of a step "
        f"free; {', '.join(FABRICS)}",
        True,
        run,
    )


def jobs() -> dict[str, Job]:
    """Everything that there is to prove, by name."""
    every = [*map(_of_proof, PROOFS.values()), *map(_of_unit, CASES)]
    return {job.name: job for job in every}


def _chosen(patterns: Sequence[str]) -> list[Job]:
    every = jobs()
    if not patterns:
        return list(every.values())
    chosen: dict[str, Job] = {}
    for pattern in patterns:
        names = fnmatch.filter(every, pattern)
        if not names:
            raise BitwrightError(
                f"NAMES = {pattern!r}: must be among {', '.join(every)}, or a pattern of them"
            )
        chosen |= {name: every[name] for name in names}
    return list(chosen.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove; exit status 0 if all is proved, 1 if something is not, 2 if a name is wrong.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(prog="scripts/formal", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAMES", help="proofs, or patterns such as 'unit-*'; all by default"
    )
    parser.add_argument("--list", action="store_true", help="show what there is, and prove nothing")
    parser.add_argument("--quick", action="store_true", help="only those that are also tests")
    parser.add_argument(
        "--record", action="store_true", help="write docs/verification/formal.json; of all proofs only"
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each; 1800 by default")
    parser.add_argument("--work", type=Path, help="folder to work in, which stays: circuits, logs, waveforms")
    parser.add_argument(
        "--docs", type=Path, default=Path("docs"), help="folder of the record; docs by default"
    )
    options = parser.parse_args(arguments)
    try:
        if options.record and (options.names or options.quick or options.list):
            raise BitwrightError("--record: is of all proofs; leave out NAMES, --quick and --list")
        chosen = [job for job in _chosen(options.names) if job.quick or not options.quick]
        if options.list:
            for job in chosen:
                print(f"{job.name:18} {job.method:32} {job.component}: {job.claim}")
            return 0
        if options.work is not None:
            return _prove_all(chosen, options.work, options)
        with tempfile.TemporaryDirectory() as folder:
            return _prove_all(chosen, Path(folder), options)
    except BitwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _prove_all(chosen: Sequence[Job], folder: Path, options: argparse.Namespace) -> int:
    tools = versions(["yosys"], progress=lambda text: print(text, file=sys.stderr))
    rows: list[tuple[str | int | float, ...]] = []
    failed = 0
    begin = time.monotonic()
    for job in chosen:
        started = time.monotonic()
        try:
            claims = job.run(folder / job.name, options.timeout)
        except (DisprovedError, NotProvedError, ToolTimeoutError, ToolFailedError) as error:
            failed += 1
            print(f"{job.name:18} NOT PROVED: {error}", flush=True)
            continue
        except ToolError as error:
            failed += 1
            print(f"{job.name:18} NOT PROVED: {error}", flush=True)
            continue
        seconds = round(time.monotonic() - started, 1)
        rows.append((job.name, job.component, job.claim, claims, job.method, job.bounds, seconds))
        print(
            f"{job.name:18} proved, {claims} claims, {seconds:.1f} s, {job.method}; {job.bounds}", flush=True
        )
    print(f"{len(rows)} of {len(chosen)} proved in {time.monotonic() - begin:.0f} s")
    if failed:
        return 1
    if options.record:
        path = write(_record(rows, time.monotonic() - begin, tools), options.docs / "verification")
        print(f"{path} written")
    return 0


def _record(rows: Sequence[tuple[str | int | float, ...]], seconds: float, tools: dict[str, str]) -> Record:
    """The table of what is proved."""
    return Record(
        name="formal",
        title="Proofs",
        method="proved",
        claim=(
            "What each row says holds of the component in every cycle, for every input that its assumptions "
            "allow, at the size that is named; without a bound on the number of cycles unless the method "
            "says so. Registers and memories have any value before the reset, and a memory's word is "
            "anything when it is read in the cycle in which it is written. Invariants over registers, which "
            "some proofs need, are proved and counted too. Each quick proof has been seen to fail, on a "
            "component broken on purpose (tests/gen/formal/test_catalogue.py)."
        ),
        command="scripts/formal --record",
        date=date.today().isoformat(),
        seconds=round(seconds, 1),
        versions={name: importlib.metadata.version(name) for name in ("bitwright", "amaranth")} | tools,
        columns=("proof", "component", "what", "claims", "method", "size", "seconds"),
        rows=tuple(rows),
        findings=(
            "The ports' count of bursts under way ran over after 4096 that memory had taken and not "
            "answered; a port was idle then while answers were still to come. Ports take no further burst "
            "from half of that on: tests/hw/bus/test_axi4.py, "
            "test_no_more_bursts_are_taken_than_can_be_counted.",
        ),
        not_covered=(
            "The Verilog itself: proofs are of what Amaranth makes of a component, simulations of what is "
            "emitted.",
            "Compute unit, feeder, scratchpads, array and quant pipeline; of the last two, the dot-product "
            "units are proved.",
            "The serial line, the event counters, and a decoder of instructions that only set things.",
            "What words main memory holds, as of it the RAM is taken out, and that of block RAM.",
            "That words come, or a program ends: liveness is proved only as bounds of single components.",
            "The window is proved of an engine with any core that asks for nothing once it is idle; that the "
            "core does not is not proved. A host that grants a window beyond the end of the address space is "
            "excluded.",
        ),
    )


if __name__ == "__main__":
    raise SystemExit(main())
