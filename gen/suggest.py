"""Suggests an engine for a network on a device: unit, columns, lanes, requantisers.

::

    prices of units (measured) ─┐
    overhead of engines ────────┼─► estimate() ─► what fits ─► cycle model ─► suggest(): Proposals, best first
    memories, counted ──────────┘

LUTs and clock of a proposal are estimates, from units and engines that were measured; `bitwright synth` gives
the figures. Cycles are the cycle model's, of the very program that `bitwright compile` makes.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from math import prod
from typing import Any

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import never_elaborated
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.memory.feeder import Feeder
from bitwright.hw.memory.scratchpad import Geometry, geometries
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bitblade import BitBlade
from bitwright.hw.pe.bricks import BRICK_BITS, SIDE, BrickGrid
from bitwright.hw.pe.contract import DotProduct, Precision
from bitwright.hw.pe.loom import Loom
from bitwright.hw.pe.unpu import Unpu
from bitwright.hw.sched.fetch import FetchUnit
from bitwright.hw.sched.isa import Buffer, Combine, Opcode, Unit
from bitwright.sim.graph import Graph, NetworkError

from . import pe_bench
from .compare import fitted, layer_precisions, multiplier_blocks, operations
from .layer import span_blocks
from .mapper import compile_graph
from .program import Program
from .synthesis import Resources, Target, check_target

__all__ = [
    "ENGINE_TOLERANCE",
    "UNIT_TOLERANCE",
    "Estimate",
    "Overhead",
    "Proposal",
    "Suggestion",
    "engine_blocks",
    "estimate",
    "features",
    "memory_blocks",
    "overheads",
    "prices",
    "suggest",
    "toml",
    "units_lut",
]


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """LUTs of an engine beside its units, and its clock, of a family.

    Parameters
    ----------
    lut
        Of each of :func:`features`, so many LUTs.
    clock_mhz
        Greatest clock of engines with units that are quicker, on each device.
    unit_mhz
        That of engines with a unit that is slower among others than alone.
    """

    lut: dict[str, float]
    clock_mhz: dict[str, float]
    unit_mhz: dict[str, float]


@cache
def overheads() -> dict[str, Overhead]:
    """By family: what `scripts/bench suggest` fitted to the engines that it measured."""
    text = (resources.files("bitwright.gen") / "engines.json").read_text(encoding="utf-8")
    return {family: Overhead(**values) for family, values in json.loads(text)["overheads"].items()}


def features(config: EngineConfig) -> dict[str, float]:
    """What the LUTs of an engine beside its units grow with; `docs/compare.md` has what each stands for."""
    count = config.rows * config.cols
    scaled = config.requantisers if "requantise" in config.quantisers else 0
    feeder = config.unit.feeder()
    if feeder is not None:
        never_elaborated(feeder)
    return {
        "fixed": 1,
        "address": config.address_bits - 32,
        "requantise": scaled if config.requantise_cycles > 1 else 0,
        "requantise_at_once": scaled if config.requantise_cycles == 1 else 0,
        "thresholds": config.requantisers if "thresholds" in config.quantisers else 0,
        "planar": config.bus_bits if config.planar else 0,
        "column": config.accumulator_bits * count,
        "granule": 0 if config.planar else config.granules_per_word,
        "feeder": 0 if feeder is None else config.unit.activation_word_bits * config.rows,
        "windows": int(config.convolution),
        "maximum": config.requantisers if "maximum" in config.combined else 0,
        "sum": config.requantisers if "sum" in config.combined else 0,
        "chains": config.cols * config.activation_word_bits if config.chained else 0,
        "packing": config.activation_word_bits if config.packs else 0,
    }


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """What some units take beside their price, of a family.

    Parameters
    ----------
    one_mode
        Share of the LUTs of its bricks that a unit takes where it has one mode and not several.
    bitblade, bitblade_one_mode
        LUTs that shift the sums of bricks, of which a unit has one set; with several modes, and with one.
    loom
        LUTs for each bit of the two accumulators that other units do not have.
    unpu
        LUTs that choose between outputs and keep their sums.
    """

    one_mode: dict[str, float]
    bitblade: float
    bitblade_one_mode: float
    loom: float
    unpu: float


# Fitted to `scripts/bench pe --lanes N` at a8w8 and a2w2, with and without --alone: bitblade and bitfusion of
# 1, 4 and 16 lanes, loom of 16 and 64, unpu of 8 and 64.
_UNITS = {
    "ecp5": _Unit(
        one_mode={"bitblade": 0.9, "bitfusion": 0.74}, bitblade=195, bitblade_one_mode=100, loom=1.5, unpu=85
    ),
    "ice40": _Unit(
        one_mode={"bitblade": 1.0, "bitfusion": 0.55}, bitblade=350, bitblade_one_mode=180, loom=7.5, unpu=370
    ),
}

UNIT_TOLERANCE, ENGINE_TOLERANCE = 0.35, 0.1
"""By how much of it the units, and everything else, may take more LUTs than estimated.

A proposal fits even then. docs/compare.md has estimates beside what was measured.
"""

_WITHIN = 0.95  # of the best rate: what is that quick counts as equal, and the smallest is proposed
_MAPPED = 80  # candidates that are mapped, of those that look best
_MAPPED_CONVOLUTIONS = 24  # the same of a network with convolutions, which takes longer to map
_ROWS = (1, 2, 4)
_COLS = (1, 2, 4, 8, 16, 32)
_BIT_PRODUCTS = (16, 32, 64, 128, 256, 512, 1024)
_REQUANTISERS = (1, 2, 4)


# Units


@cache
def prices() -> tuple[pe_bench.Record, ...]:
    """The units as measured by ``scripts/bench pe``: what ships with the package."""
    with resources.as_file(resources.files("bitwright.gen") / "prices.json") as path:
        return tuple(pe_bench.load(path))


def _size(spec: DotProduct, family: str) -> float:
    """What the adders of a unit grow with.

    Each term that a cycle takes is a number of as many bits as its operands have products of single bits in
    that cycle (multiplier blocks make the product, of as many bits as both have). Adding it up takes a slot
    of a carry chain for each, and some three for the growth of sums and the ends of chains. Bricks are as
    many terms at any precision; less is left of each where they have one mode.
    """
    if isinstance(spec, BrickGrid):
        own = _UNITS[family]
        share = 1.0 if spec.spreads else own.one_mode[spec.name]
        return share * spec.lanes * SIDE**2 * (BRICK_BITS**2 + 3)
    precision = max(spec.precisions, key=spec.elements)
    elements = spec.elements(precision)
    a, w = spec.activation_word_bits / elements, spec.weight_word_bits / spec.outputs_per_beat / elements
    return elements * ((a + w if getattr(spec, "multiplier", None) == "dsp" else a * w) + 3)


def _fixed(spec: DotProduct, family: str) -> float:
    """LUTs of a unit that do not grow with its lanes: accumulators, and shifts that there is one set of."""
    own = _UNITS[family]
    lut: float = spec.accumulator_bits
    if isinstance(spec, Loom):
        lut += own.loom * (spec.inner_bits + spec.outer_bits)
    if isinstance(spec, BitBlade):
        lut += own.bitblade if spec.spreads else own.bitblade_one_mode
    if isinstance(spec, Unpu):
        lut += own.unpu
    return lut


def _widths(spec: DotProduct) -> tuple[int, int]:
    return (
        max(precision.activation.bits for precision in spec.precisions),
        max(precision.weight.bits for precision in spec.precisions),
    )


@dataclass(frozen=True)
class _Priced:
    """A unit that was measured."""

    spec: DotProduct
    record: pe_bench.Record


@cache
def _priced(unit: str, family: str) -> tuple[_Priced, ...]:
    """The hardware of a unit in the table, on a family's own carry chains; each once."""
    found: dict[DotProduct, _Priced] = {}
    for record in prices():
        if record.unit != unit or record.rows or record.fabric != family:
            continue
        parameters: dict[str, Any] = {
            "lanes": record.lanes,
            "precisions": tuple(map(Precision.parse, record.built_for)),
            "reduction": record.reduction,
            "fabric": record.fabric,
            **record.variant,
        }
        spec = UNITS[unit](**parameters)
        found.setdefault(spec, _Priced(spec, record))
    return tuple(found.values())


def _nearest(spec: DotProduct, family: str) -> _Priced | None:
    """The measured hardware that is most like a unit; of another family where this one has none like it."""
    for origin in (family, *({"ecp5", "ice40"} - {family})):
        alike = [
            priced
            for priced in _priced(spec.name, origin)
            if all(getattr(spec, name) == value for name, value in priced.record.variant.items())
            and all(
                getattr(spec, name) == getattr(priced.spec, name)
                for name in ("multiplier", "outputs")
                if hasattr(spec, name)
            )
        ]
        if alike:

            def distance(priced: _Priced, origin: str = origin) -> float:
                pairs = zip(
                    (_size(spec, origin), *_widths(spec)),
                    (_size(priced.spec, origin), *_widths(priced.spec)),
                    strict=True,
                )
                return sum(abs(math.log(one / other)) for one, other in pairs)

            return min(alike, key=distance)
    return None


@cache
def _unit_price(spec: DotProduct, family: str) -> tuple[float, float] | None:
    """LUTs and clock of a unit: the nearest measured one's, scaled by :func:`_size`.

    What does not grow with lanes, such as the accumulator, which is as wide as the longest dot product asks
    for, is counted by itself.
    """
    near = _nearest(spec, family)
    if near is None:
        return None
    origin = near.record.fabric
    products = max(near.record.lut - _fixed(near.spec, origin), 0)
    products *= _size(spec, origin) / _size(near.spec, origin)
    # One that does not fit the device it was measured on has no clock: the slowest's.
    clocks = [record.fmax_median_mhz for record in prices() if record.fabric == near.record.fabric]
    clock = near.record.fmax_median_mhz or min(clock for clock in clocks if clock is not None)
    return products + _fixed(spec, family), clock


# Engines


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an engine is expected to take.

    Parameters
    ----------
    units_lut, engine_lut
        LUTs of the units, and of everything else.
    dsp, bram
        Multiplier blocks and block RAMs.
    fmax_mhz
        Greatest clock.
    """

    units_lut: int
    engine_lut: int
    dsp: int
    bram: int
    fmax_mhz: float

    @property
    def lut(self) -> int:
        """LUTs of all."""
        return self.units_lut + self.engine_lut

    @property
    def most_lut(self) -> int:
        """LUTs of all, should the estimate be as low as it can be."""
        return math.ceil(self.units_lut * (1 + UNIT_TOLERANCE) + self.engine_lut * (1 + ENGINE_TOLERANCE))

    def excess(self, available: Resources) -> dict[str, tuple[int, int]]:
        """What may be needed and what there is, where that is less."""
        needs = {"lut": self.most_lut, "dsp": self.dsp, "bram": self.bram}
        return {
            name: (count, getattr(available, name))
            for name, count in needs.items()
            if count > getattr(available, name)
        }


def _memories(config: EngineConfig) -> Iterator[tuple[int, int, int]]:
    """Width, depth and bits of a write enable of each block RAM of an engine."""
    for _ in Unit:
        yield config.bus_bits, config.queue_depth * config.instruction_beats, config.bus_bits
    yield config.bus_bits, FetchUnit.BUFFER, config.bus_bits
    yield config.bus_bits, config.output_depth, config.granule_bits
    yield 32, 16, 32  # event counters
    yield 32, 16, 32  # and their copy
    for buffer, geometry in geometries(config).items():
        # Each requantiser's results are looked up in tables of their own.
        yield from _banks(geometry, config.requantisers if buffer is Buffer.TABLES else 1)
    yield from _banks(Feeder.patch_geometry(config), config.rows)


def memory_blocks(width: int, depth: int, granule: int, family: str) -> int:
    """Block RAMs of a memory, in whichever shape takes fewest; none where LUT RAM is smaller.

    Parameters
    ----------
    width, depth, granule
        Bits of a word; words; bits of a write enable.
    family
        Of the device.
    """
    return _blocks(width, depth, granule, family)


def engine_blocks(config: EngineConfig, family: str) -> int:
    """Block RAMs of an engine, counted.

    Parameters
    ----------
    config
        The engine.
    family
        Of the device.
    """
    return sum(_blocks(*memory, family) for memory in _memories(config))


def _banks(geometry: Geometry, count: int) -> Iterator[tuple[int, int, int]]:
    """The memories of so many scratchpads."""
    width = geometry.read_bits * geometry.ratio
    for _ in range(count):
        for bank in range(geometry.banks):
            part = min(geometry.write_bits, width - bank * geometry.write_bits)
            yield part, geometry.rows, part


def _blocks(width: int, depth: int, granule: int, family: str) -> int:
    """Block RAMs of a memory, in whichever shape takes fewest; none where LUT RAM is smaller."""
    if family == "ice40":
        shapes = [(16 >> power, 256 << power) for power in range(4)]
        return min(-(-width // w) * -(-depth // d) for w, d in shapes)
    if depth * width <= 1024:
        return 0
    shapes = [(36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)]
    # A write enable is for 9 bits; narrower granules leave the rest of them unused.
    used = width if granule >= 9 else width // granule * 9
    return min(-(-used // w) * -(-depth // d) for w, d in shapes)


def units_lut(config: EngineConfig, target: Target) -> float | None:
    """LUTs of the units of an engine on a device; None where no unit like its own was measured."""
    price = _unit_price(config.unit, target.family)
    return None if price is None else config.rows * config.cols * price[0]


def estimate(
    config: EngineConfig, target: Target, constants: Mapping[str, Overhead] | None = None
) -> Estimate | None:
    """What an engine takes on a device; None where no unit like its own was measured.

    Parameters
    ----------
    config
        The engine.
    target
        The device.
    constants
        By family, :func:`overheads` unless given.
    """
    price = _unit_price(config.unit, target.family)
    units = units_lut(config, target)
    if price is None or units is None:
        return None
    _, clock = price
    overhead = (constants or overheads())[target.family]
    other = sum(overhead.lut[name] * value for name, value in features(config).items())
    return Estimate(
        units_lut=round(units),
        engine_lut=round(other),
        dsp=multiplier_blocks(config),
        bram=engine_blocks(config, target.family),
        fmax_mhz=min(
            clock,
            overhead.clock_mhz[target.name],
            overhead.unit_mhz.get(config.pe, overhead.clock_mhz[target.name]),
        ),
    )


# Searching


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An engine for the network.

    Parameters
    ----------
    config
        The engine.
    estimate
        What it takes.
    cycles
        Of one inference, by the cycle model.
    array_busy, bus_busy
        Share of the cycles in which the array takes a beat, and the bus delivers a word.
    """

    config: EngineConfig
    estimate: Estimate
    cycles: int
    array_busy: float
    bus_busy: float

    @property
    def inferences_per_second(self) -> float:
        """At the estimated clock."""
        return self.estimate.fmax_mhz * 1e6 / self.cycles

    def as_json(self) -> dict[str, Any]:
        """The fields, and what follows from them."""
        return asdict(self) | {
            "lut": self.estimate.lut,
            "inferences_per_second": self.inferences_per_second,
            "toml": toml(self.config),
        }


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What :func:`suggest` found.

    Parameters
    ----------
    network, target
        Their names.
    available
        What the device has, LUTs as far as they may be used.
    rate
        Inferences per second that are asked for.
    proposals
        The best engine, then the best of each other unit.
    refusals
        Why a unit is not among them.
    obstacle
        Why there is no proposal.
    considered
        How many engines were looked at.
    """

    network: str
    target: str
    available: Resources
    rate: float | None
    proposals: tuple[Proposal, ...]
    refusals: dict[str, str]
    obstacle: str | None
    considered: int

    @property
    def reasons(self) -> list[str]:
        """Why the first proposal is what it is, a sentence each."""
        best = self.proposals[0]
        config, needs = best.config, best.estimate
        if self.rate is None:
            aim = f"the smallest engine within {1 - _WITHIN:.0%} of the quickest that fits"
        else:
            aim = f"the smallest engine that makes {self.rate:,.0f} inferences per second"
        text = [f"{aim}, of {self.considered} engines looked at"]
        count = config.rows * config.cols
        text.append(
            f"{count} unit{'s' * (count > 1)} of {config.lanes} lanes: {needs.units_lut:,} LUTs, "
            f"everything else {needs.engine_lut:,}, of {self.available.lut:,}; at most {needs.most_lut:,}"
        )
        blocks = [
            f"{getattr(needs, name)} of {getattr(self.available, name)} {what}"
            for name, what in (("dsp", "multiplier blocks"), ("bram", "block RAMs"))
        ]
        text.append(", ".join(blocks))
        if best.bus_busy >= best.array_busy:
            what = f"the bus: it delivers a word in {best.bus_busy:.0%} of the cycles"
            more = "more units would wait for weights"
        else:
            what = f"the array: it is busy in {best.array_busy:.0%} of the cycles"
            more = "more units make it quicker, where there is room"
        text.append(f"the limit is {what}; {more}")
        return text

    @property
    def toml(self) -> str:
        """The first proposal as a TOML file, with what it was made for and why."""
        best = self.proposals[0]
        said = [
            f"For {self.network} on {self.target}: {best.cycles:,} cycles, "
            f"about {best.inferences_per_second:,.0f} inferences per second at "
            f"{best.estimate.fmax_mhz:.0f} MHz. Estimated.",
            *self.reasons,
        ]
        return "".join(f"# {line}\n" for line in said) + toml(best.config)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "network": self.network,
            "target": self.target,
            "available": asdict(self.available),
            "rate": self.rate,
            "tolerance": {"units": UNIT_TOLERANCE, "engine": ENGINE_TOLERANCE},
            "reasons": self.reasons if self.proposals else [],
            "proposals": [proposal.as_json() for proposal in self.proposals],
            "refusals": self.refusals,
            "obstacle": self.obstacle,
            "considered": self.considered,
            "note": "LUTs, blocks and clock are estimates; cycles are the cycle model's",
        }


def toml(config: EngineConfig) -> str:
    """A configuration as a TOML file: the keys that differ from their defaults."""
    default = {field.name: field.default for field in fields(EngineConfig)}
    return "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in asdict(config).items() if default[key] != value
    )


def suggest(
    graph: Graph,
    target: str,
    *,
    rate: float | None = None,
    luts: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Suggestion:
    """Engines for a network on a device.

    Parameters
    ----------
    graph
        The network.
    target
        One of :data:`~bitwright.gen.synthesis.TARGETS`.
    rate
        Inferences per second that are enough; as many as fit otherwise.
    luts
        LUTs that may be used; all that the device has unless given.
    progress
        Told what is being done.

    Raises
    ------
    BitwrightError
        There is no such device, or a number is not above zero.
    """
    say = progress or (lambda text: None)
    device = check_target(target)
    for option, value in (("--rate", rate), ("--luts", luts)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise BitwrightError(f"{option} {value:g}: must be above 0")
    room = Resources(
        **asdict(device.available) | {"lut": min(device.available.lut, luts or device.available.lut)}
    )
    refusals: dict[str, str] = {}
    candidates: dict[EngineConfig, Estimate] = {}
    needed: dict[str, dict[str, Precision]] = {}
    for unit in UNITS:
        say(f"Looking at engines of {unit}")
        try:
            needed[unit] = layer_precisions(graph, unit)
        except NetworkError as error:
            refusals[unit] = str(error)
            continue
        found = False
        for config in _configurations(graph, unit, device, needed[unit]):
            needs = estimate(config, device)
            if needs is not None:
                candidates[config] = needs
                found = True
        if not found:
            refusals[unit] = "no unit like it was measured for this device, or none can be built"
    fitting = {config: needs for config, needs in candidates.items() if not needs.excess(room)}
    proposals = _mapped(graph, fitting, needed, rate, refusals, say) if fitting else []
    for unit in dict.fromkeys(config.pe for config in candidates):
        if not any(config.pe == unit for config in fitting):
            refusals[unit] = (
                f"does not fit: {_shortest({c: n for c, n in candidates.items() if c.pe == unit}, room)}"
            )
    obstacle = None
    if not candidates:
        obstacle = "no unit can run this network"
    elif not fitting:
        obstacle = f"nothing fits {target}: {_shortest(candidates, room)}"
    elif not proposals:
        obstacle = "nothing that fits the device can hold the network in its scratchpads"
    elif rate is not None:
        quick = [proposal for proposal in proposals if proposal.inferences_per_second >= rate]
        for unit in dict.fromkeys(proposal.config.pe for proposal in proposals):
            if not any(proposal.config.pe == unit for proposal in quick):
                most = max(p.inferences_per_second for p in proposals if p.config.pe == unit)
                refusals[unit] = f"the quickest that was mapped makes {most:,.0f} inferences per second"
        if not quick:
            best = max(proposals, key=lambda proposal: proposal.inferences_per_second)
            obstacle = (
                f"nothing that fits {target} makes {rate:,.0f} inferences per second; the quickest is "
                f"{best.config.pe} with {best.inferences_per_second:,.0f}"
            )
        proposals = quick
    return Suggestion(
        network=graph.name,
        target=target,
        available=room,
        rate=rate,
        proposals=tuple(_chosen(proposals, rate)),
        refusals=refusals,
        obstacle=obstacle,
        considered=len(candidates),
    )


def _shortest(candidates: dict[EngineConfig, Estimate], room: Resources) -> str:
    """By how much the smallest of them is too large."""

    def share(needs: Estimate) -> float:
        return max(count / max(has, 0.5) for count, has in needs.excess(room).values())

    config, needs = min(candidates.items(), key=lambda item: share(item[1]))
    parts = [f"{count:,} {name.upper()} of {has:,}" for name, (count, has) in needs.excess(room).items()]
    which = f"{config.pe} of {_columns_and_lanes(config)}"
    return f"the smallest, {which}, may need {', '.join(parts)}"


def _columns_and_lanes(config: EngineConfig) -> str:
    """Columns and lanes, in words."""
    return ", ".join(
        f"{count} {what if count == 1 else what + 's'}"
        for count, what in ((config.cols, "column"), (config.lanes, "lane"))
    )


def _configurations(
    graph: Graph, unit: str, target: Target, needed: Mapping[str, Precision]
) -> Iterator[EngineConfig]:
    """Engines of a unit, of many sizes; each once."""
    seen = set()
    small = target.family == "ice40"
    doing = operations(graph)
    most = max(prod(operation.result_map) for operation in doing)
    channels = max(operation.channels for operation in doing)
    # Room for eight times the weights, at two bytes each, and for every tensor.
    weights = sum(operation.weights.size for operation in doing if operation.macs)
    elements = sum(tensor.size for tensor in graph.tensors.values())
    window = max(20, (16 * weights + 4 * elements).bit_length())
    for rows in _ROWS:
        for cols in _COLS:
            if cols > 2 * channels or rows > most:
                continue
            for requantisers in _REQUANTISERS:
                if cols % requantisers:
                    continue
                base = EngineConfig(
                    rows=rows,
                    cols=cols,
                    lanes=8,
                    requantisers=requantisers,
                    requantise_cycles=4 if small else 1,
                    address_bits=min(32, window) if small else 32,
                    bus_bits=32 if small else 64,
                    queue_depth=16,
                    loads_under_way=2 if small else 4,
                    channel_depth=1024,
                )
                for bit_products in _BIT_PRODUCTS:
                    try:
                        config = fitted(
                            graph, unit, base, target=target, bit_products=bit_products, needed=needed
                        )
                        if config in seen:
                            continue
                        seen.add(config)
                        yield config
                        if config.convolution:
                            # Smaller scratchpads, where lines are long or weights many
                            config = fitted(
                                graph,
                                unit,
                                base,
                                target=target,
                                lanes=config.lanes,
                                needed=needed,
                                tight=True,
                            )
                            if config not in seen:
                                seen.add(config)
                                yield config
                    except ConfigError:
                        continue


def _roughly(graph: Graph, config: EngineConfig, needed: Mapping[str, Precision]) -> float:
    """Cycles of an inference, roughly: what the bus or the array takes at least, layer by layer."""
    total = 0.0
    for operation in operations(graph):
        precision = needed[operation.name]
        schedule = config.schedules[config.formats.index(precision)]
        block = schedule.stored_steps.size
        pixels = prod(operation.result_map) * prod(operation.window)
        sources = operation.sources
        if operation.combine is Combine.SUM and len(sources) == 2:
            # Mostly part of the convolution in front of it, which one of the two does not leave.
            pixels, sources = prod(operation.result_map), sources[:1]
        taps, group = prod(operation.kernel), config.group_channels
        drain = config.cols // config.requantisers * config.unit.outputs
        shared = (operation.kernel[1] - operation.stride[1]) * operation.kernel[0]
        if operation.depthwise and operation.combine is Combine.NONE and 0 <= shared < config.chained:
            # A chain plays what a pixel does not share with the one before.
            taps, group = taps - shared, config.chained
            drain = config.chained // config.requantisers
        spans = span_blocks(operation, group, block)
        steps = taps * spans * len(schedule.stored_steps)
        groups = -(-operation.channels // group)
        compute = -(-pixels // config.rows) * groups * max(steps * len(schedule.beats), drain)
        # The feeder brings a word per cycle, to one row at a time.
        fill = pixels * taps * spans * schedule.activation_words * (1 if operation.dense else groups)
        bits = groups * steps * schedule.weight_words * config.weight_word_bits
        bits += sum(
            prod(each) * -(-channels // block) * schedule.activation_words * config.activation_word_bits
            for each, channels in (
                *((operation.map, operation.input_channels) for _ in sources),
                (operation.result_map, operation.channels),
            )
        )
        total += max(compute, fill, bits / config.bus_bits) + 100
    return total


def _mapped(
    graph: Graph,
    fitting: dict[EngineConfig, Estimate],
    needed: Mapping[str, Mapping[str, Precision]],
    rate: float | None,
    refusals: dict[str, str],
    say: Callable[[str], None],
) -> list[Proposal]:
    """Proposals of the engines that look best, some of each unit, as mapped."""
    quick = {
        config: _roughly(graph, config, needed[config.pe]) / needs.fmax_mhz
        for config, needs in fitting.items()
    }
    proposals = []
    units = list(dict.fromkeys(config.pe for config in fitting))
    most = _MAPPED_CONVOLUTIONS if any(config.convolution for config in fitting) else _MAPPED
    each = max(2, most // len(units))
    for unit in units:
        own = [config for config in fitting if config.pe == unit]
        if rate is not None:
            enough = [config for config in own if quick[config] * rate <= 1e6 * 1.1]
            order = sorted(enough, key=lambda config: fitting[config].lut)
            order += sorted(set(own) - set(enough), key=lambda config: quick[config])
        else:
            least = min(quick[config] for config in own)
            order = sorted(
                own,
                key=lambda config: (math.floor(math.log(quick[config] / least, 1.1)), fitting[config].lut),
            )
        for config in order[:each]:
            say(f"Mapping {config.pe}, {_columns_and_lanes(config)}")
            try:
                program = compile_graph(graph, config)
            except BitwrightError as error:
                refusals.setdefault(unit, str(error))
                continue
            refusals.pop(unit, None)
            proposals.append(_proposal(program, fitting[config]))
    return proposals


def _proposal(program: Program, needs: Estimate) -> Proposal:
    config = program.config
    array = bus = 0
    for instruction in program.instructions:
        bus += config.instruction_beats
        if instruction.opcode is Opcode.LOAD:
            bus += instruction["beats"]
        elif instruction.opcode is Opcode.COMPUTE:
            beats = len(config.schedules[instruction["precision"]].beats)
            array += instruction["row_groups"] * instruction["col_groups"] * instruction["steps"] * beats
    cycles = program.predicted_cycles
    return Proposal(
        config=config,
        estimate=needs,
        cycles=cycles,
        array_busy=min(1.0, array / cycles),
        bus_busy=min(1.0, bus / cycles),
    )


def _chosen(proposals: Sequence[Proposal], rate: float | None) -> list[Proposal]:
    """The best of each unit, the best unit first."""

    def best(group: Sequence[Proposal]) -> Proposal:
        top = max(proposal.inferences_per_second for proposal in group)
        enough = top * _WITHIN if rate is None else rate
        near = [proposal for proposal in group if proposal.inferences_per_second >= enough]
        return min(near, key=lambda proposal: (proposal.estimate.lut, -proposal.inferences_per_second))

    left = [
        best([proposal for proposal in proposals if proposal.config.pe == unit])
        for unit in dict.fromkeys(proposal.config.pe for proposal in proposals)
    ]
    order = []
    while left:
        order.append(best(left))
        left.remove(order[-1])
    return order
