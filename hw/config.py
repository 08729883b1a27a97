"""The engine's configuration: every parameter, every derived width, every cross-field check."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import gcd
from typing import Any, ClassVar, Literal

from .emission import never_elaborated
from .errors import ConfigError
from .formats import Format, Int
from .pe import UNITS
from .pe.contract import Beat, DotProduct, Precision
from .reduce.carry import FABRICS, Fabric
from .storage import ACCUMULATORS, Storage

__all__ = [
    "CHANNEL_BITS",
    "INSTRUCTION_BITS",
    "MAX_PRECISIONS",
    "MAX_THRESHOLDS",
    "TABLE_BITS",
    "TABLE_ENTRIES",
    "THRESHOLDS_PER_WORD",
    "EngineConfig",
    "Mode",
    "Schedule",
]

INSTRUCTION_BITS = 256
"""Width of every instruction."""

CHANNEL_BITS = 96
"""Width of one output channel's quantisation parameters (see :mod:`bitwright.hw.quant.requantise`)."""


MAX_PRECISIONS = 64
"""Most precisions of an engine."""

MAX_THRESHOLDS = 15
"""Most thresholds of a channel: those of results of 4 bits."""

THRESHOLDS_PER_WORD = 3
"""Thresholds that take the room of one channel's parameters of requantisation."""

TABLE_ENTRIES = 256
"""Entries of a table, one for each code of 8 bits (see :mod:`bitwright.hw.quant.combine`)."""

TABLE_BITS = 32
"""Width of an entry of a table."""


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Parameters of one generated engine.

    Raises
    ------
    ConfigError
        A value is out of range, or two of them do not go together; it names the key.
    """

    # Read by pydantic where a configuration file is validated; nothing here depends on pydantic.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "use_attribute_docstrings": True,
    }

    pe: Literal[
        "parallel",
        "bitfusion",
        "bitblade",
        "stripes",
        "unpu",
        "loom",
        "bismo",
        "xnor",
        "ternary",
        "log2",
    ] = "parallel"
    """Dot-product unit: one of the architectures in `hw/pe`; see `docs/units.md`."""

    target: Fabric = "generic"
    """What additions are made of: `generic` for any FPGA or ASIC, `ecp5` or `ice40` for its carry cells."""

    rows: int = 1
    """M: output rows (pixels, batch items) computed at a time, 1 to 16."""

    cols: int
    """N: output channels computed at a time, 1 to 128."""

    lanes: int
    """K: lanes of a dot-product unit, 1 to 256; the unit says how many positions of a dot product that is."""

    precisions: tuple[str, ...] = ("a8w8",)
    """Formats of activations and weights that layers may have, such as `a8w8`; others cost nothing."""

    quantisers: tuple[Literal["requantise", "thresholds", "accumulators"], ...] = ("requantise",)
    """What becomes of sums: scaled (`requantise`), 1 to 4 bits (`thresholds`), or left as `accumulators`."""

    combine: tuple[Literal["maximum", "sum"], ...] = ("maximum", "sum")
    """What may be made of several results before they are stored: their `maximum`, or a `sum` by tables."""

    multiplier: Literal["dsp", "lut"] = "dsp"
    """Of a unit that multiplies: whether in the target's multiplier blocks or by adders."""

    depthwise: bool = False
    """Whether columns may keep the last taps of a channel each: depthwise convolutions at several lanes.

    Possible with one row, words of one value per lane, and lanes that divide `cols`; nothing elsewhere."""

    convolution: bool = True
    """Whether the feeder knows windows, strides and padding; without, it brings rows of matrices only."""

    packing: bool = False
    """Whether the feeder may pack taps of few channels, side by side, into the lanes.

    Possible with words of 2, 4, 8, ... values; nothing elsewhere."""

    forwarding: bool = True
    """Whether results may go straight to the activation scratchpad, beside memory or instead of it."""

    reduction: int = 16384
    """Longest dot product that the accumulators hold without overflow, 1 to 65536."""

    requantisers: int = 1
    """Output elements requantised at a time; a power of two that divides `cols`."""

    requantise_cycles: Literal[1, 4] = 1
    """Cycles that a requantiser takes per element: 1 uses four 16x16 multipliers, 4 uses one."""

    bus_bits: Literal[32, 64, 128] = 64
    """Data width of the memory port: 32, 64 or 128."""

    bus: Literal["axi", "wishbone"] = "axi"
    """Buses of the top module: AXI4 and AXI4-Lite (`axi`), or Wishbone for memory and registers."""

    burst_beats: Literal[4, 8, 16, 32, 64, 128, 256] = 64
    """Longest burst; a burst never crosses a multiple of its length, so it stays within 4 KiB."""

    activation_depth: int = 1024
    """Words of the activation scratchpad; a power of two from 16 to 65536."""

    patch_depth: int = 512
    """Words of each array row's patch buffer, filled ahead by the feeder; a power of two from 16 to 65536."""

    weight_depth: int = 1024
    """Words of the weight scratchpad; a power of two from 16 to 65536."""

    channel_depth: int = 256
    """Output channels whose quantisation parameters are kept; a power of two from 16 to 65536."""

    output_depth: int = 512
    """Bus words of the output scratchpad; a power of two from 16 to 65536."""

    queue_depth: int = 32
    """Instructions that each unit's queue holds; a power of two from 2 to 256."""

    loads_under_way: Literal[2, 4, 8] = 4
    """LOAD instructions whose data may be under way at a time."""

    address_bits: int = 32
    """Size of the window of memory that the engine can reach, as a power of two of bytes, 16 to 32."""

    def __post_init__(self) -> None:
        for key, low, high in (
            ("rows", 1, 16),
            ("cols", 1, 128),
            ("lanes", 1, 256),
            ("reduction", 1, 65536),
            ("requantisers", 1, 16),
            ("address_bits", 16, 32),
        ):
            value = getattr(self, key)
            if not low <= value <= high:
                raise ConfigError(key, value, f"from {low} to {high}")
        for key, choices in (
            ("pe", tuple(UNITS)),
            ("target", FABRICS),
            ("multiplier", ("dsp", "lut")),
            ("requantise_cycles", (1, 4)),
            ("bus_bits", (32, 64, 128)),
            ("bus", ("axi", "wishbone")),
            ("burst_beats", (4, 8, 16, 32, 64, 128, 256)),
            ("loads_under_way", (2, 4, 8)),
        ):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(key, value, "one of " + ", ".join(map(str, choices)))
        for quantiser in self.quantisers:
            if quantiser not in ("requantise", "thresholds", "accumulators"):
                raise ConfigError("quantisers", quantiser, "one of requantise, thresholds, accumulators")
        for operation in self.combine:
            if operation not in ("maximum", "sum"):
                raise ConfigError("combine", operation, "one of maximum, sum")
        if len(set(self.combine)) < len(self.combine):
            raise ConfigError("combine", list(self.combine), "none twice")
        for key, low, high in (
            ("activation_depth", 16, 65536),
            ("patch_depth", 16, 65536),
            ("weight_depth", 16, 65536),
            ("channel_depth", 16, 65536),
            ("output_depth", 16, 65536),
            ("queue_depth", 2, 256),
        ):
            value = getattr(self, key)
            if not (_is_power_of_two(value) and low <= value <= high):
                raise ConfigError(key, value, f"a power of two from {low} to {high}")
        self._check_unit()
        if not _is_power_of_two(self.requantisers) or self.cols % self.requantisers:
            raise ConfigError(
                "requantisers", self.requantisers, f"a power of two that divides cols = {self.cols}"
            )
        if self.channel_depth < self.group_channels:
            raise ConfigError(
                "channel_depth", self.channel_depth, f"at least the {self.group_channels} channels of a group"
            )
        if not self.modes:
            raise ConfigError("quantisers", list(self.quantisers), self._results_allowed())
        if "thresholds" in self.quantisers and self.accumulator_bits > 30:
            raise ConfigError("reduction", self.reduction, "such that sums fit the 30 bits of a threshold")
        widest = max(storage.bits for storage in self.storages.values())
        if not self.planar and self.requantisers * widest > self.bus_bits:
            raise ConfigError(
                "requantisers",
                self.requantisers,
                f"at most {self.bus_bits // widest}, what fits one bus word",
            )
        word = self.activation_word_bits
        if word % self.bus_bits and self.bus_bits % word:
            raise ConfigError(
                "lanes",
                self.lanes,
                f"such that the bits of an activation word, {word}, divide, "
                f"or are a multiple of, bus_bits = {self.bus_bits}",
            )
        word = self.weight_word_bits
        if word < self.bus_bits and self.bus_bits % word:
            raise ConfigError(
                "cols",
                self.cols,
                f"such that the bits of a weight word, {word}, divide, "
                f"or are at least, bus_bits = {self.bus_bits}",
            )

    def _results_allowed(self) -> str:
        """Says what `quantisers` would make results of some activations that the engine has."""
        scaled = any(isinstance(format, Int) for format in self.storages)
        counted = any(len(format.values) - 1 <= MAX_THRESHOLDS for format in self.storages)
        able = [name for name, can in (("requantise", scaled), ("thresholds", counted)) if can]
        return (
            f"such that results can be made of activations of {', '.join(map(str, self.storages))}: "
            f"add {' or '.join([*able, 'accumulators, for sums as they are'])}"
        )

    def _check_unit(self) -> None:
        unit = UNITS[self.pe]
        try:
            parsed = [Precision.parse(name) for name in self.precisions]
        except ValueError as error:
            raise ConfigError(
                "precisions", list(self.precisions), f"a list of precisions ({error})"
            ) from None
        if not parsed or len(set(parsed)) < len(parsed):
            raise ConfigError("precisions", list(self.precisions), "at least one precision, none twice")
        if len(parsed) > MAX_PRECISIONS:
            raise ConfigError("precisions", list(self.precisions), f"at most {MAX_PRECISIONS} precisions")
        for precision in parsed:
            if not unit.supported(precision):
                raise ConfigError(
                    "precisions", str(precision), f"one that pe = {self.pe} supports: {unit.supports}"
                )
            if precision.activation.bits > 8:
                raise ConfigError("precisions", str(precision), "of activations of at most 8 bits")
        if self.multiplier != "dsp" and "multiplier" not in unit.__dataclass_fields__:
            raise ConfigError("multiplier", self.multiplier, f"left out for pe = {self.pe}, which has none")
        try:
            storages = [Storage.of(self.unit, precision) for precision in self.formats]
        except ValueError as error:
            raise ConfigError("lanes", self.lanes, f"such that {self.pe} can be built ({error})") from None
        for storage in storages:
            if not storage.planar and not _is_power_of_two(storage.bits):
                signs = {precision.activation.min < 0 for precision in self.formats}
                hint = (
                    ": name signed formats only, unsigned tensors fit them by an offset"
                    if len(signs) == 2 and storage.bits > storage.format.bits
                    else ""
                )
                raise ConfigError(
                    "precisions",
                    list(self.precisions),
                    f"of activations that {self.pe} stores in 1, 2, 4 or 8 bits, not in {storage.bits}{hint}",
                )
            if self.storages[storage.format] != storage:
                raise ConfigError(
                    "precisions",
                    list(self.precisions),
                    f"such that {self.pe} takes {storage.format} activations in one way only",
                )
            if storage.planar and storage.block % self.cols and self.cols % storage.block:
                raise ConfigError(
                    "cols", self.cols, f"a divisor or a multiple of the {storage.block} lanes of a bit plane"
                )

    def replace(self, **changes: Any) -> "EngineConfig":
        """A variant with some values changed."""
        return replace(self, **changes)

    # Formats

    @cached_property
    def formats(self) -> tuple[Precision, ...]:
        """The precisions, in the order in which instructions count them."""
        return tuple(map(Precision.parse, self.precisions))

    @cached_property
    def unit(self) -> DotProduct:
        """The dot-product unit, as its contract describes it."""
        architecture = UNITS[self.pe]
        own: dict[str, Any] = {}
        if "multiplier" in architecture.__dataclass_fields__:
            own["multiplier"] = self.multiplier
        return architecture(
            lanes=self.lanes,
            precisions=self.formats,
            reduction=self.reduction,
            fabric=self.target,
            **own,
        )

    @cached_property
    def storages(self) -> dict[Format, Storage]:
        """How activations of each format are stored, in the order in which instructions count formats."""
        found: dict[Format, Storage] = {}
        for precision in self.formats:
            found.setdefault(precision.activation, Storage.of(self.unit, precision))
        return found

    @property
    def planar(self) -> bool:
        """Whether activations are stored as bit planes."""
        return next(iter(self.storages.values())).planar

    @cached_property
    def modes(self) -> tuple["Mode", ...]:
        """Everything that may become of a sum, in the order in which instructions count results."""
        found = []
        for quantiser in dict.fromkeys(self.quantisers):
            if quantiser == "accumulators":
                found.append(Mode(self, quantiser, ACCUMULATORS))
                continue
            for storage in self.storages.values():
                steps = len(storage.format.values) - 1
                if isinstance(storage.format, Int) if quantiser == "requantise" else steps <= MAX_THRESHOLDS:
                    found.append(Mode(self, quantiser, storage))
        return tuple(found)

    @property
    def combined(self) -> tuple[str, ...]:
        """What is made of several results; nothing without convolution, or of accumulators alone."""
        if not self.convolution or set(self.quantisers) == {"accumulators"}:
            return ()
        return self.combine

    @property
    def tails(self) -> bool:
        """Whether a convolution's patches may have a tail: the other operand of a sum."""
        return "sum" in self.combined

    @cached_property
    def result_bits(self) -> int:
        """Width of a result that is no accumulator, before it is stored."""
        return max(storage.bits for storage in self.storages.values())

    @property
    def accumulator_lanes(self) -> int:
        """Accumulators that are stored at a time."""
        return min(self.requantisers, self.bus_bits // ACCUMULATORS.bits)

    @cached_property
    def schedules(self) -> tuple["Schedule", ...]:
        """What the sequencer plays for a step of each precision."""
        return tuple(Schedule(self.unit, precision) for precision in self.formats)

    @property
    def group_channels(self) -> int:
        """Output channels of a group of columns: all that the units of a row compute side by side."""
        return self.cols * self.unit.outputs

    @property
    def accumulator_bits(self) -> int:
        """Width of a dot product: what `reduction` extreme products need."""
        return self.unit.accumulator_bits

    # Words and layouts

    @property
    def bus_bytes(self) -> int:
        """Bytes of a bus word; the unit of every memory address in an instruction."""
        return self.bus_bits // 8

    @cached_property
    def activation_word_bits(self) -> int:
        """What is read of one row's activations at a time: those of a step, or a plane of them."""
        storage = next(iter(self.storages.values()))
        return storage.block_bits // storage.words

    @property
    def weight_word_bits(self) -> int:
        """What is read of weights at a time: one word for every column."""
        return self.cols * self.unit.weight_word_bits

    @property
    def channel_word_bits(self) -> int:
        """Quantisation parameters read at a time: those of `requantisers` channels."""
        return self.requantisers * CHANNEL_BITS

    @cached_property
    def granule_bits(self) -> int:
        """What the output scratchpad is written in: the fewest results that lie side by side."""
        widths = {storage.bits for storage in self.storages.values()}
        if self.planar:
            lanes = next(iter(self.storages.values())).block
            # An accumulator is written at once.
            raw = ACCUMULATORS.bits * self.accumulator_lanes if "accumulators" in self.quantisers else 0
            return gcd(self.cols, lanes, self.bus_bits, raw)
        if len(widths) == 1:
            return self.requantisers * min(widths)
        # Narrow results are gathered up to a byte, as a memory has no narrower write enables.
        return gcd(self.bus_bits, self.cols * min(widths), max(8, self.requantisers * min(widths)))

    @property
    def channel_words_per_group(self) -> int:
        """Words of quantisation parameters of a group of columns."""
        return self.group_channels // self.requantisers

    @property
    def channel_words_per_drain(self) -> int:
        """Words of quantisation parameters of what is drained at a time: one output of every unit."""
        return self.cols // self.requantisers

    @property
    def granules_per_word(self) -> int:
        """Granules of one bus word."""
        return self.bus_bits // self.granule_bits

    def granule(self, storage: Storage, channel: int) -> int:
        """Granules from the start of a row to where an output channel begins: a first one of a column."""
        if not storage.planar:
            return channel * storage.bits // self.granule_bits
        block, within = divmod(channel, storage.block)
        return (block * storage.block_bits + within) // self.granule_bits

    def groups_per_block(self, storage: Storage) -> int:
        """Groups of columns whose results share a block of planes; 1 where a group fills blocks."""
        return max(1, storage.block // self.cols) if storage.planar else 1

    @cached_property
    def block_groups(self) -> int:
        """Groups of columns whose results share a block of planes, where they are stored as planes."""
        return max(map(self.groups_per_block, self.storages.values()))

    @property
    def row_bits(self) -> int:
        """What a stored row of activations is padded to: whole bus words and whole scratchpad words."""
        return max(self.bus_bits, self.activation_word_bits)

    @property
    def drain_cycles(self) -> int:
        """Most cycles between two results of the array, over all modes."""
        return max(mode.drain_cycles for mode in self.modes)

    @property
    def token_limit(self) -> int:
        """Tokens that one unit can be ahead of another: more than those its queue waits for."""
        return max(31, 2 * self.queue_depth - 1)

    @property
    def word_address_bits(self) -> int:
        """Bits of a memory address in an instruction, which counts bus words."""
        return self.address_bits - (self.bus_bytes - 1).bit_length()

    @property
    def instruction_beats(self) -> int:
        """Bus words of an instruction."""
        return INSTRUCTION_BITS // self.bus_bits

    @property
    def peak_macs_per_cycle(self) -> float:
        """Multiply-accumulate operations of a cycle in which the array is busy, at the quickest precision."""
        return max(map(self.macs_per_cycle, self.formats))

    @cached_property
    def _lanes(self) -> int:
        """Elements of an activation word, where every precision has as many and none is planar; else 0."""
        storages = list(self.storages.values())
        same = len({(storage.block, storage.bits) for storage in storages}) == 1
        return storages[0].block if self.convolution and same and not self.planar else 0

    @cached_property
    def chained(self) -> int:
        """Columns of a chain, one for each lane; 0 where there are none, whatever `depthwise` says."""
        lanes = self._lanes
        if not (self.depthwise and lanes) or self.rows > 1:
            return 0
        if never_elaborated(self.unit.feeder()) is not None:
            return 0
        if any(schedule.elements != lanes or len(schedule.beats) > 1 for schedule in self.schedules):
            return 0
        if self.cols % lanes or lanes % self.requantisers:
            return 0
        # Results of a chain must fill whole granules.
        return (
            0
            if lanes * min(storage.bits for storage in self.storages.values()) % self.granule_bits
            else lanes
        )

    @property
    def forwards(self) -> bool:
        """Whether results can go straight to the activation scratchpad; accumulators are no activations."""
        return self.forwarding and set(self.quantisers) != {"accumulators"}

    @property
    def packs(self) -> int:
        """Elements that the feeder packs into a word; 0 where it packs none, whatever `packing` says."""
        lanes = self._lanes
        return lanes if self.packing and lanes > 1 and _is_power_of_two(lanes) else 0

    def macs_per_cycle(self, precision: Precision) -> float:
        """Multiply-accumulate operations of a cycle in which the array is busy, on average over a step."""
        return self.rows * self.cols * self.unit.macs_per_cycle(precision)


class Mode:
    """What becomes of a layer's sums, and how long that takes.

    Parameters
    ----------
    config
        The engine's configuration.
    quantiser
        One of its quantisers.
    storage
        How results are stored.
    """

    def __init__(self, config: EngineConfig, quantiser: str, storage: Storage):
        self.quantiser = quantiser
        self.storage = storage
        phases: int
        if quantiser == "requantise":
            phases, words = config.requantise_cycles, 1
        elif quantiser == "thresholds":
            phases = words = -(-(len(storage.format.values) - 1) // THRESHOLDS_PER_WORD)
        else:
            phases, words = config.requantisers // config.accumulator_lanes, 0
        made = config.channel_words_per_drain * phases
        written = storage.words * config.cols // config.granule_bits if storage.planar else 0
        self.phases = phases
        """Cycles that an element takes: results of as many columns as there are requantisers."""
        self.channel_words = words
        """Words of quantisation parameters of an element."""
        self.row_cycles = max(made, -(-written // phases) * phases)
        """Cycles that the results of a row of units take: to be made, or to be written as planes."""
        self.drain_cycles = config.rows * self.row_cycles
        """Cycles between two results of the array."""
        self.chain_words = config.chained // config.requantisers
        """Words of parameters, and of results, of a chain's columns."""
        self.chain_cycles = self.chain_words * phases
        """Cycles between two results of a chain."""
        self.least_cycles = min(self.drain_cycles, self.chain_cycles or self.drain_cycles)
        """Cycles between any two results."""


class Schedule:
    """A step of a precision as the sequencer plays it: beats, and where each finds its operands.

    Parameters
    ----------
    unit
        The dot-product unit.
    precision
        The formats.
    """

    def __init__(self, unit: DotProduct, precision: Precision):
        self.beats: tuple[Beat, ...] = unit.beats(precision)
        """The beats of a step."""
        self.ends = unit.ends(precision)
        """For each beat, whether it is the last of its output."""
        self.elements = unit.elements(precision)
        """Positions of the dot product in a step."""
        self.activation_words = Storage.of(unit, precision).words
        """Scratchpad words that hold a step's activations, and those of the steps that share them."""
        self.stored_steps = unit.stored_steps(precision)
        """For each step that shares them, which elements it takes."""
        self.weight_order = tuple(sorted({(beat.output, beat.weight) for beat in self.beats}))
        """Output and number of each weight word of a step, in the order in which they are stored."""
        self.activation_index = tuple(
            beat.activation if self.activation_words > 1 else 0 for beat in self.beats
        )
        """For each beat, which of the step's activation words it takes."""
        self.feeder_index = tuple(
            tuple(unit.feeder_index(precision, step, beat) for step in range(len(self.stored_steps)))
            for beat in self.beats
        )
        """For each beat and each of the steps that share words, what the feeder is told."""
        self.weight_index = tuple(self.weight_order.index((beat.output, beat.weight)) for beat in self.beats)
        """For each beat, which of the step's weight words it takes."""

    def steps(self, terms: int) -> int:
        """Steps of a dot product of so many terms: all that share the words that hold them."""
        return -(-terms // self.stored_steps.size) * len(self.stored_steps)

    def cycles(self, steps: int, drain: int) -> tuple[int, int]:
        """Cycles of a dot product, and those that it waits for the results of one before it.

        An output's last beat comes when the results of the last one have left, which takes ``drain`` cycles.
        """
        ends = [index for index, end in enumerate(self.ends) if end]
        waits = sum(max(0, drain - (there - here)) for here, there in pairwise(ends))
        busy = steps * len(self.beats) + waits
        return busy, max(0, drain - (steps * len(self.beats) - (ends[-1] - ends[0])))

    @property
    def weight_words(self) -> int:
        """Scratchpad words of a step's weights."""
        return len(self.weight_order)
