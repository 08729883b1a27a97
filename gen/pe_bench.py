"""Prices of dot-product units: what each takes on an FPGA, how fast it is there, and what that buys.

::

    UNITS ─► cases() ─► harness_verilog() ─► synthesise(), or ─► Record ─┬─► save(), draw(), a table
             unit,                           from the cache              └─► regressions() from a baseline
             parameters

A case is one hardware; it has a record for each precision that it is priced at.
"""

import hashlib
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import DotProduct, Precision, PriceCase
from bitwright.hw.reduce.carry import Fabric
from bitwright.sim.rtl import cache_root

from . import synthesis
from .pe_harness import harness_verilog
from .synthesis import TARGETS, synthesise
from .toolchain import versions
from .verilog import TOP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PRICE_TARGETS",
    "REDUCTION",
    "Case",
    "PriceTarget",
    "Record",
    "cases",
    "check_comparable",
    "check_plot",
    "draw",
    "load",
    "measure",
    "regressions",
    "save",
]

REDUCTION = 4096
"""Terms of the longest dot product, which sets the width of the accumulators that are priced."""

FREQUENCY_MHZ = 400
"""Clock that nextpnr aims for: more than any unit reaches, so that it never stops improving."""

TIMING_WEIGHT = 30
"""What nextpnr's placer is told of delay beside length; units leave room enough for it on either family."""

_TIMEOUT_SECONDS = {"ecp5": 3600, "ice40": 300}
"""Of a run of a tool. A seed takes some 10 s; nextpnr-ice40 is given up early, as it may never end."""

_CACHE_FORMAT = 1  # part of every cache key: raise it when results change in a way that the key does not see


@dataclass(frozen=True)
class PriceTarget:
    """A device to measure on.

    Parameters
    ----------
    device
        One of :data:`~bitwright.gen.synthesis.TARGETS`.
    fabric
        The units' fabric that is its own.
    dsp
        Whether units may use its multiplier blocks.
    """

    device: str
    fabric: Fabric
    dsp: bool = False


PRICE_TARGETS: dict[str, PriceTarget] = {
    "ecp5": PriceTarget("ecp5-85k", "ecp5", dsp=True),
    "ecp5-nodsp": PriceTarget("ecp5-85k", "ecp5"),
    "ice40": PriceTarget("ice40-hx8k", "ice40"),
}
"""What units are measured on, by name."""


@dataclass(frozen=True)
class Case:
    """One hardware to be measured.

    Parameters
    ----------
    spec
        The unit.
    precisions
        Those that it is priced at.
    target
        One of :data:`PRICE_TARGETS`.
    variant
        The architecture's own parameters among those of ``spec``.
    array
        Rows and columns of an array of units with its drain chain, or None for one unit between registers.
    """

    spec: DotProduct
    precisions: tuple[Precision, ...]
    target: str
    variant: Mapping[str, Any]
    array: tuple[int, int] | None = None

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """:attr:`Record.key` of each of its records."""
        spec = self.spec
        built = [str(precision) for precision in spec.precisions]
        return [
            _key(
                *(spec.name, str(precision), spec.lanes, self.target, spec.fabric, *(self.array or (0, 0))),
                *(spec.reduction, self.variant, built),
            )
            for precision in self.precisions
        ]

    def __str__(self) -> str:
        size = f"{self.array[0]} x {self.array[1]} of " if self.array else ""
        parameters = "".join(f", {name} = {value}" for name, value in self.variant.items())
        precisions = " ".join(map(str, self.precisions))
        return (
            f"{size}{self.spec.name} of {self.spec.lanes} lanes{parameters}, {precisions}, "
            f"{self.target}, fabric {self.spec.fabric}"
        )


def _key(*values: Any) -> tuple[Any, ...]:
    """What was measured: the last two are the unit's own parameters and what it is built for."""
    *rest, variant, built = values
    return (*rest, tuple(sorted(variant.items())), tuple(built))


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one hardware takes, at one precision.

    Parameters
    ----------
    unit, precision, lanes, variant
        Name, formats in force (``a8w8``), width, and the architecture's own parameters.
    built_for
        Precisions that the hardware is built for.
    activation_signed, weight_signed
        Whether the operands are.
    target, device, fabric
        Name of the target, its device, and what the carry chains are made of.
    rows, cols
        Of the array; 0 for one unit between registers.
    reduction, accumulator_bits
        Longest dot product, and the width that it takes.
    elements, beats, latency
        Terms of a step, cycles of a step, cycles from the last beat to the result.
    lut, ff, dsp, bram
        As :class:`~bitwright.gen.synthesis.Resources` counts them.
    fmax_mhz
        Greatest clock for each seed; empty where it does not fit.
    macs_per_cycle
        Multiply-accumulate operations of a busy cycle, of all units.
    lut_per_mac
        LUTs for one multiply-accumulate operation per cycle.
    lut_per_binary_op
        ``lut_per_mac / (2 * a * w)``: operands of a and w bits, as they are stored, make ``a * w`` products
        of single bits, and as many additions.
    gops
        Operations per second at the median clock, in 10^9; a multiply-accumulate operation counts two.
    versions
        Of the tools.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    unit: str
    precision: str
    lanes: int
    variant: dict[str, str | int]
    built_for: list[str]
    activation_signed: bool
    weight_signed: bool
    target: str
    device: str
    fabric: str
    rows: int
    cols: int
    reduction: int
    accumulator_bits: int
    elements: int
    beats: int
    latency: int
    lut: int
    ff: int
    dsp: int
    bram: int
    fmax_mhz: list[float]
    macs_per_cycle: float
    lut_per_mac: float
    lut_per_binary_op: float
    gops: float | None
    versions: dict[str, str]

    @property
    def fmax_median_mhz(self) -> float | None:
        """Median clock of the seeds."""
        return statistics.median(self.fmax_mhz) if self.fmax_mhz else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured: equal for records that can be compared."""
        return _key(
            *(self.unit, self.precision, self.lanes, self.target, self.fabric, self.rows, self.cols),
            *(self.reduction, self.variant, self.built_for),
        )

    @property
    def title(self) -> str:
        """The same for people."""
        size = f"{self.rows}x{self.cols} " if self.rows else ""
        parameters = "".join(f" {name}={value}" for name, value in self.variant.items())
        target = PRICE_TARGETS.get(self.target)
        fabric = f" {self.fabric}" if target is None or self.fabric != target.fabric else ""
        return f"{size}{self.unit}{parameters} {self.lanes} lanes {self.precision} {self.target}{fabric}"


# What to measure


def cases(
    units: Sequence[str] = (),
    precisions: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    generic: bool = False,
    lanes: int | None = None,
    array: tuple[int, int] | None = None,
    alone: bool = False,
) -> list[Case]:
    """Everything that the architectures declare to be priced, or a part of it.

    Parameters
    ----------
    units, precisions, targets
        Only these. A precision that a unit supports and does not price by itself gets hardware of its own.
        Without targets, one with multiplier blocks is taken only by units that have a use for them.
    generic
        Measure fabric ``generic``, what Yosys makes of plain additions, rather than the target's own.
    lanes
        Width of the units instead of what they declare.
    array
        Rows and columns of an array; one unit otherwise.
    alone
        Each precision gets hardware of its own, so that nothing is paid for others.

    Raises
    ------
    BitwrightError
        A name is not known, a unit cannot be built in this way, or nothing is left to be measured.
    """
    _check_names("unit", units, UNITS)
    _check_names("target", targets, PRICE_TARGETS)
    try:
        wanted = tuple(dict.fromkeys(map(Precision.parse, precisions)))
    except ValueError as error:
        raise BitwrightError(f"--precision: {error}") from None
    if array is not None and min(array) < 1:
        raise BitwrightError(f"--rows {array[0]} --cols {array[1]}: must be at least 1")
    # Cases that a given number of lanes makes equal are one.
    found: dict[tuple[DotProduct, str], Case] = {}
    for name in dict.fromkeys(units) or UNITS:
        unit = UNITS[name]
        blocks = unit.variants(dsp=True) != unit.variants(dsp=False)
        for target_name in dict.fromkeys(targets) or PRICE_TARGETS:
            target = PRICE_TARGETS[target_name]
            if target.dsp and not blocks and not targets:
                continue
            for case in _selected(unit, wanted, alone):
                for variant in unit.variants(dsp=target.dsp):
                    try:
                        spec = unit(
                            lanes=case.lanes if lanes is None else lanes,
                            precisions=case.built,
                            reduction=REDUCTION,
                            fabric="generic" if generic else target.fabric,
                            **variant,
                        )
                    except ValueError as error:
                        raise BitwrightError(str(error)) from None
                    key = (spec, target_name)
                    priced = (*(found[key].precisions if key in found else ()), *case.precisions)
                    found[key] = Case(spec, tuple(dict.fromkeys(priced)), target_name, variant, array)
    if not found:
        raise BitwrightError(_unsupported(units, wanted))
    return list(found.values())


def _unsupported(units: Sequence[str], wanted: Sequence[Precision]) -> str:
    """That none of the units takes any of the precisions, and what each takes instead."""
    precisions = " or ".join(map(str, wanted))
    asked = list(dict.fromkeys(units))
    if len(asked) == 1:
        return f"{asked[0]} does not support {precisions}; it takes {UNITS[asked[0]].supports}"
    who = f"{' and '.join(asked)} do not support" if asked else "no unit supports"
    takes = [f"\n  {name} takes {UNITS[name].supports}" for name in asked or UNITS]
    return f"{who} {precisions}:{''.join(takes)}"


def _check_names(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise BitwrightError(f"--{option} {name}: must be one of {', '.join(known)}{hint}")


def _selected(unit: type[DotProduct], wanted: Sequence[Precision], alone: bool) -> Iterator[PriceCase]:
    """What a unit declares, as hardware with the precisions that it is priced at; only those wanted."""
    left = dict.fromkeys(precision for precision in wanted if unit.supported(precision))
    for case in unit.priced():
        precisions = tuple(precision for precision in case.precisions if not wanted or precision in wanted)
        for precision in precisions:
            left.pop(precision, None)
        if case.built and precisions and not alone:
            yield replace(case, precisions=precisions)
        else:
            for precision in precisions:
                yield PriceCase(case.lanes, (precision,), built=(precision,))
    for precision in left:
        yield PriceCase(unit.priced()[0].lanes, (precision,), built=(precision,))


# Measuring


def measure(
    cases: Sequence[Case],
    *,
    seeds: int = 3,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Record]:
    """Synthesise each case, or find the result of doing so in the cache; records in the order of the cases.

    Parameters
    ----------
    cases
        What to measure.
    seeds
        Placements of each.
    jobs
        Cases under way at a time.
    progress
        Told what is being done.

    Raises
    ------
    ToolError
        A tool is missing or failed.
    """
    say = progress or (lambda text: None)
    # Asked here once, as every thread would ask.
    for family in dict.fromkeys(TARGETS[PRICE_TARGETS[case.target].device].family for case in cases):
        versions(("yosys", f"nextpnr-{family}"), progress=say)
    say(f"Measuring {len(cases)} {'design' if len(cases) == 1 else 'designs'}")
    elaboration = threading.Lock()
    done = 0

    def run(case: Case) -> list[Record]:
        nonlocal done
        with elaboration:  # Amaranth is not made for threads
            verilog = harness_verilog(case.spec, case.array)
        result = synthesised(verilog, PRICE_TARGETS[case.target].device, seeds)
        done += 1
        say(f"{done} of {len(cases)}: {case}")
        if result["dsp"] and not PRICE_TARGETS[case.target].dsp:
            raise BitwrightError(f"{case}: has {result['dsp']} multiplier blocks where none are allowed")
        return [_record(case, precision, result) for precision in case.precisions]

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, case) for case in cases]
        try:
            return [record for future in futures for record in future.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def synthesised(verilog: str, device: str, seeds: int) -> dict[str, Any]:
    """What :func:`~bitwright.gen.synthesis.synthesise` says of a design, kept from one run to the next.

    Results are in ``synth`` of the cache folder, by a hash of all that they depend on: the design, the
    device, how the tools are called, and their versions. What does not fit is not kept, nor is a failure.
    """
    target = TARGETS[device]
    cells = [target.cells] if target.cells else []
    parts = [
        _CACHE_FORMAT,
        verilog,
        asdict(target),
        Path(synthesis.__file__).read_text(),
        [(resources.files("bitwright.gen") / "cells" / name).read_text() for name in cells],
        FREQUENCY_MHZ,
        TIMING_WEIGHT,
        seeds,
        versions(("yosys", f"nextpnr-{target.family}")),
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    path = cache_root().with_name("synth") / f"{key}.json"
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        pass
    else:
        return kept
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "design.v").write_text(verilog)
        result = synthesise(
            folder / "design.v",
            TOP,
            device,
            folder / "synth",
            seeds=seeds,
            frequency=FREQUENCY_MHZ,
            timeout=_TIMEOUT_SECONDS[target.family],
            timing_weight=TIMING_WEIGHT,
        )
        found = result.as_json()
        if result.fits:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                    json.dump(found, file)
                os.replace(file.name, path)
            except OSError as error:
                raise BitwrightError(f"{path.parent}: cannot be written: {error.strerror}") from None
    return found


def _record(case: Case, precision: Precision, result: Mapping[str, Any]) -> Record:
    spec = case.spec
    rows, cols = case.array or (0, 0)
    macs = spec.macs_per_cycle(precision) * (rows * cols or 1)
    per_mac = result["lut"] / macs
    activation, weight = precision
    clocks: list[float] = result["fmax_mhz"]
    return Record(
        unit=spec.name,
        precision=str(precision),
        lanes=spec.lanes,
        variant=dict(case.variant),
        built_for=[str(built) for built in spec.precisions],
        activation_signed=activation.min < 0,
        weight_signed=weight.min < 0,
        target=case.target,
        device=PRICE_TARGETS[case.target].device,
        fabric=spec.fabric,
        rows=rows,
        cols=cols,
        reduction=spec.reduction,
        accumulator_bits=spec.accumulator_bits,
        elements=spec.elements(precision),
        beats=len(spec.beats(precision)),
        latency=spec.latency,
        lut=result["lut"],
        ff=result["ff"],
        dsp=result["dsp"],
        bram=result["bram"],
        fmax_mhz=clocks,
        macs_per_cycle=macs,
        lut_per_mac=round(per_mac, 3),
        lut_per_binary_op=round(per_mac / (2 * activation.bits * weight.bits), 4),
        gops=round(2 * macs * statistics.median(clocks) / 1000, 3) if clocks else None,
        versions=result["versions"],
    )


# Files


def save(path: Path, records: Iterable[Record]) -> None:
    """Write records as a JSON list.

    Raises
    ------
    BitwrightError
        The file cannot be written.
    """
    lines = ",\n".join(json.dumps(asdict(record)) for record in records)  # a line each, to be compared
    try:
        path.write_text(f"[\n{lines}\n]\n")
    except OSError as error:
        raise BitwrightError(f"{path}: cannot be written: {error.strerror}") from None


def load(path: Path) -> list[Record]:
    """Read what :func:`save` wrote.

    Raises
    ------
    BitwrightError
        The file is not there, or not one.
    """
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except OSError as error:
        raise BitwrightError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise BitwrightError(
            f"{path}: is not what `scripts/bench pe --json` writes, a list of records ({where}{first['msg']})"
        ) from None


_RECORDS = TypeAdapter(list[Record])


# Comparing


_AT_MOST = {"lut": 1.01, "ff": 1.05, "dsp": 1.0, "bram": 1.0}
"""Figures of which less is better: by which factor they may exceed the baseline."""
_AT_LEAST = {"fmax_median_mhz": 0.9, "macs_per_cycle": 1.0}
"""Figures of which more is better: which part of the baseline they must reach."""


def regressions(records: Iterable[Record], baseline: Iterable[Record]) -> list[str]:
    """Every figure that is worse than in the baseline by more than its tolerance, and what is missing.

    Records that the baseline does not have are not looked at.
    """
    found = {record.key: record for record in records}
    worse = []
    for before in baseline:
        now = found.get(before.key)
        if now is None:
            worse.append(f"{before.title}: was not measured")
            continue
        for figure in (*_AT_MOST, *_AT_LEAST):
            old, new = getattr(before, figure), getattr(now, figure)
            if old is None:
                continue
            if new is None:
                worse.append(f"{before.title}: {figure} was {old:g}, and now it does not fit")
            elif new > old * _AT_MOST.get(figure, float("inf")) or new < old * _AT_LEAST.get(figure, 0):
                worse.append(f"{before.title}: {figure} was {old:g}, is {new:g}")
    return worse


def check_comparable(cases: Iterable[Case], baseline: Sequence[Record], path: Path) -> None:
    """Complain where no record of the baseline, read from that file, would be measured again.

    Raises
    ------
    BitwrightError
        There is none; the message says what the baseline has.
    """
    planned = {key for case in cases for key in case.keys}
    if any(record.key in planned for record in baseline):
        return
    contents = "; ".join(
        f"{name}s {', '.join(str(value) for value in dict.fromkeys(getattr(r, name) for r in baseline))}"
        for name in ("target", "fabric", "unit", "precision")
    )
    has = f"it has {contents}" if baseline else "it has no records"
    raise BitwrightError(f"--check {path}: nothing of it is among what was asked to be measured; {has}")


# Drawing

_MARKERS = "osD^v<>pPXh*d8H"


def check_plot(path: Path) -> "Figure":
    """An empty figure for :func:`draw`, which can be written to such a file.

    Raises
    ------
    BitwrightError
        There is no matplotlib, or it cannot draw such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BitwrightError(
            "--plot needs matplotlib, which is not installed: pip install 'bitwright[plot]'"
        ) from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in formats:
        raise BitwrightError(f"--plot {path}: must end in one of {', '.join(sorted(formats))}")
    return figure


def draw(path: Path, records: Sequence[Record]) -> None:
    """Draw LUTs for a MAC per cycle against the clock: a colour for each unit, a marker for each target.

    Beside each point are its precision and lanes.

    Raises
    ------
    BitwrightError
        As of :func:`check_plot`; or the file cannot be written.
    """
    figure = check_plot(path)
    # Prices span three decades, from binary to 8-bit products.
    axes = figure.add_subplot(xlabel="LUTs for a MAC per cycle", ylabel="Fmax in MHz, median", xscale="log")
    axes.grid(visible=True, which="both", alpha=0.2)
    placed = [record for record in records if record.fmax_mhz]
    units = list(dict.fromkeys(record.unit for record in placed))
    kinds = list(dict.fromkeys((record.target, record.fabric) for record in placed))
    for kind, marker in zip(kinds, _MARKERS * len(kinds), strict=False):
        for index, unit in enumerate(units):
            group = [r for r in placed if r.unit == unit and (r.target, r.fabric) == kind]
            axes.scatter(
                [record.lut_per_mac for record in group],
                [statistics.median(record.fmax_mhz) for record in group],
                marker=marker,
                color=f"C{index}",
            )
            # What one hardware does at the same price has one label.
            labels: dict[tuple[float, float, str], list[str]] = {}
            for record in group:
                size = f"{record.rows}x{record.cols} of " if record.rows else ""
                place = (record.lut_per_mac, statistics.median(record.fmax_mhz), f"({size}{record.lanes})")
                labels.setdefault(place, []).append(record.precision)
            for (x, y, lanes), names in labels.items():
                axes.annotate(
                    f"{' '.join(dict.fromkeys(names))} {lanes}",
                    (x, y),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=6,
                )
    # The legend explains colours and markers apart from each other.
    for index, unit in enumerate(units):
        axes.scatter([], [], color=f"C{index}", label=unit)
    for (target, fabric), marker in zip(kinds, _MARKERS * len(kinds), strict=False):
        axes.scatter([], [], color="black", marker=marker, label=f"{target}, fabric {fabric}")
    axes.legend(
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title="at each point: precision (lanes)",
        title_fontsize=8,
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise BitwrightError(f"{path}: cannot be written: {error.strerror}") from None
