"""Broken files, for so long or so many: ``python -m bitwright.gen.hostile``; see `scripts/fuzz-files`."""

import argparse
import datetime
import os
import platform
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bitwright.gen.record import Record, write

from .campaign import MEMORY_BYTES, SECONDS, Campaign, keep, run

CASES = Path("tests/gen/hostile/cases")
"""Where the inputs of findings are kept, from the root of a clone, with what was wrong with each."""

_NOT_COVERED = (
    "Files of more than a few kilobytes: the sound ones are small, so that many can be tried.",
    "What `generate`, `simulate` and `synth` do with a configuration that was accepted. Of the networks "
    "that were accepted one in 50 was mapped as well, if it had at most 65536 elements and MACs.",
    "The interpreter, numpy, protobuf and other libraries, but for what these files reach of them.",
    "What comes over a serial line; `scripts/bench link` breaks that.",
)


def _claim(campaign: Campaign) -> str:
    count = f"{campaign.inputs:,}".replace(",", " ")
    return (
        f"{count} files, made from sound ones by changing fields, tables and bytes, were read as the command "
        "line reads them. Each had to be accepted, or refused by a message that names the file or the node, "
        f"within {SECONDS:g} s of processor time, by a process that cannot grow by more than "
        f"{MEMORY_BYTES >> 20} MiB and has no asking for more forgiven."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Try broken files; exit status 1 if any ended as none should.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m bitwright.gen.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=None, help="how long; 60 unless --inputs is given")
    parser.add_argument("--inputs", type=int, default=None, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="of all random numbers; random unless given")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; one for each core"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("build/fuzz-files"),
        help="where inputs that failed go; emptied first",
    )
    parser.add_argument("--record", action="store_true", help="write docs/verification/hostile-files.json")
    options = parser.parse_args(arguments)
    if options.seconds is None and options.inputs is None:
        options.seconds = 60.0
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))

    def say(campaign: Campaign) -> None:
        rate = campaign.inputs / campaign.seconds
        print(
            f"{campaign.inputs} inputs, {rate:.0f} per second, {len(campaign.findings)} findings",
            file=sys.stderr,
        )

    print(f"seed {seed}", flush=True)
    campaign = run(
        seed=seed,
        inputs=options.inputs,
        seconds=options.seconds,
        workers=max(options.workers, 1),
        progress=say,
    )
    for name, tally in campaign.tallies.items():
        print(
            f"{name:22} {tally.inputs:8} inputs: {tally.accepted} accepted, {tally.refused} refused in "
            f"{len(tally.messages)} ways, {tally.failed} failed; slowest {tally.slowest:.2f} s"
        )
    print(
        f"{campaign.inputs} inputs in {campaign.seconds:.0f} s, {campaign.inputs / campaign.seconds:.0f} per "
        f"second; a process grew by at most {campaign.peak_bytes >> 20} MiB"
    )
    for path, finding in zip(keep(campaign, options.keep), campaign.findings, strict=True):
        print(f"FOUND {finding.target}: {finding.key} (input {finding.index}, {path})")
    if options.record:
        print(f"written to {write(_record(campaign), Path('docs/verification'))}")
    return 1 if campaign.findings else 0


def _record(campaign: Campaign) -> Record:
    with (CASES / "cases.toml").open("rb") as file:
        cases = tomllib.load(file)["case"]
    return Record(
        name="hostile-files",
        title="Files that somebody has tampered with",
        method="fuzzed",
        claim=_claim(campaign),
        command=f"scripts/fuzz-files --inputs {campaign.inputs} --seed {campaign.seed} --record",
        date=datetime.date.today().isoformat(),
        seconds=round(campaign.seconds, 1),
        versions={name: version(name) for name in ("bitwright", "numpy", "onnx", "protobuf", "tflite")}
        | {"python": platform.python_version()},
        columns=("file", "inputs", "accepted", "refused", "different refusals", "failed", "slowest, s"),
        rows=tuple(
            (
                name,
                tally.inputs,
                tally.accepted,
                tally.refused,
                len(tally.messages),
                tally.failed,
                round(tally.slowest, 2),
            )
            for name, tally in campaign.tallies.items()
        ),
        findings=tuple(f"{case['was']} (`{CASES / case['file']}`)" for case in cases),
        not_covered=_NOT_COVERED,
    )


if __name__ == "__main__":
    raise SystemExit(main())
