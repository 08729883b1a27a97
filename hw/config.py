"""The engine's configuration: every parameter, every derived width, every cross-field check."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from .errors import ConfigError
from .formats import Bipolar, Format, Int, PowerOfTwo, Ternary
from .pe import UNITS
from .pe.contract import Beat, DotProduct, Precision
from .reduce.carry import FABRICS, Fabric

__all__ = ["CHANNEL_BITS", "INSTRUCTION_BITS", "EngineConfig"]

INSTRUCTION_BITS = 256
"""Width of every instruction."""

CHANNEL_BITS = 96
"""Width of one output channel's quantisation parameters (see :mod:`bitwright.hw.quant.requantise`)."""


_WEIGHT_FORMATS: dict[str, Format | Callable[[int], Format]] = {
    "int": Int,
    "bipolar": Bipolar(),
    "ternary": Ternary(),
    "power_of_two": PowerOfTwo,
}


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

    activation_bits: Literal[1, 2, 4, 8] = 8
    """Width of a stored activation."""

    weight_bits: int = 8
    """Width of a weight, 1 to 16, as far as the unit supports it."""

    weight_format: Literal["int", "bipolar", "ternary", "power_of_two"] = "int"
    """What a weight is: an integer, -1 or +1 (1 bit), -1, 0 or +1 (2 bits), or a signed power of two."""

    multiplier: Literal["dsp", "lut"] = "dsp"
    """Of a unit that multiplies: whether in the target's multiplier blocks or by adders."""

    reduction: int = 16384
    """Longest dot product that the accumulators hold without overflow, 1 to 65536."""

    requantisers: int = 1
    """Output elements requantised at a time; a power of two that divides `cols`."""

    requantise_cycles: Literal[1, 4] = 1
    """Cycles that a requantiser takes per element: 1 uses four 16x16 multipliers, 4 uses one."""

    bus_bits: Literal[32, 64, 128] = 64
    """Data width of the AXI4 port: 32, 64 or 128."""

    burst_beats: Literal[4, 8, 16, 32, 64, 128, 256] = 64
    """Longest AXI4 burst; a burst never crosses a multiple of its length, so it stays within 4 KiB."""

    activation_depth: int = 1024
    """Words per row of the activation scratchpad; a power of two from 16 to 65536."""

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
            ("weight_bits", 1, 16),
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
            ("activation_bits", (1, 2, 4, 8)),
            ("weight_format", tuple(_WEIGHT_FORMATS)),
            ("multiplier", ("dsp", "lut")),
            ("requantise_cycles", (1, 4)),
            ("bus_bits", (32, 64, 128)),
            ("burst_beats", (4, 8, 16, 32, 64, 128, 256)),
            ("loads_under_way", (2, 4, 8)),
        ):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(key, value, "one of " + ", ".join(map(str, choices)))
        for key, low, high in (
            ("activation_depth", 16, 65536),
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
        if self.granule_bits > self.bus_bits:
            raise ConfigError(
                "requantisers",
                self.requantisers,
                f"at most {self.bus_bits // self.activation_bits}, what fits one bus word",
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

    def _check_unit(self) -> None:
        only = _WEIGHT_FORMATS[self.weight_format]
        if isinstance(only, Format) and self.weight_bits != only.bits:
            raise ConfigError(
                "weight_bits", self.weight_bits, f"{only.bits} for {self.weight_format} weights"
            )
        if self.weight_format == "power_of_two" and not 2 <= self.weight_bits <= 6:
            raise ConfigError("weight_bits", self.weight_bits, "from 2 to 6 for power_of_two weights")
        if self.multiplier != "dsp" and "multiplier" not in UNITS[self.pe].__dataclass_fields__:
            raise ConfigError("multiplier", self.multiplier, f"left out for pe = {self.pe}, which has none")
        if not UNITS[self.pe].supported(self.precision):
            raise ConfigError(
                "pe",
                self.pe,
                f"a unit that supports precision {self.precision}; {self.pe} takes {UNITS[self.pe].supports}",
            )
        try:
            packed = self.unit.takes_packed_activations(self.precision)
        except ValueError as error:
            raise ConfigError("lanes", self.lanes, f"such that {self.pe} can be built ({error})") from None
        if not packed:
            raise ConfigError(
                "activation_bits",
                self.activation_bits,
                f"a width at which {self.pe} takes activations side by side, as the engine stores them",
            )

    def replace(self, **changes: Any) -> "EngineConfig":
        """A variant with some values changed."""
        return replace(self, **changes)

    # Formats

    @property
    def activation(self) -> Int:
        """Format of a stored activation."""
        return Int(self.activation_bits)

    @property
    def weight(self) -> Format:
        """Format of a weight."""
        format = _WEIGHT_FORMATS[self.weight_format]
        return format if isinstance(format, Format) else format(self.weight_bits)

    @property
    def precision(self) -> Precision:
        """Formats of activations and weights."""
        return Precision(self.activation, self.weight)

    @cached_property
    def unit(self) -> DotProduct:
        """The dot-product unit, as its contract describes it."""
        architecture = UNITS[self.pe]
        own: dict[str, Any] = {}
        if "multiplier" in architecture.__dataclass_fields__:
            own["multiplier"] = self.multiplier
        return architecture(
            lanes=self.lanes,
            precisions=(self.precision,),
            reduction=self.reduction,
            fabric=self.target,
            **own,
        )

    @cached_property
    def beats(self) -> tuple[Beat, ...]:
        """The beats of a step."""
        return self.unit.beats(self.precision)

    @cached_property
    def elements(self) -> int:
        """Positions of the dot product in a step."""
        return self.unit.elements(self.precision)

    @property
    def activation_index_bits(self) -> int:
        """Width of the index of an activation word in its step."""
        return max(1, max(beat.activation for beat in self.beats).bit_length())

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

    @property
    def activation_word_bits(self) -> int:
        """One step's activations of one row."""
        return self.elements * self.activation_bits

    @property
    def weight_word_bits(self) -> int:
        """One beat's weights of all columns."""
        return self.cols * self.unit.weight_word_bits

    @property
    def channel_word_bits(self) -> int:
        """Quantisation parameters read at a time: those of `requantisers` channels."""
        return self.requantisers * CHANNEL_BITS

    @property
    def granule_bits(self) -> int:
        """What the output scratchpad is written in: one result of every requantiser."""
        return self.requantisers * self.activation_bits

    @property
    def granules_per_group(self) -> int:
        """Granules of one row of one group of columns."""
        return self.group_channels // self.requantisers

    @property
    def granules_per_drain(self) -> int:
        """Granules of one row of what is drained at a time: one output of every unit."""
        return self.cols // self.requantisers

    @property
    def granules_per_word(self) -> int:
        """Granules of one bus word."""
        return self.bus_bits // self.granule_bits

    @property
    def row_align(self) -> int:
        """Elements that a stored activation row is padded to: whole bus words and whole activation words."""
        return max(self.bus_bits, self.activation_word_bits) // self.activation_bits

    @property
    def drain_cycles(self) -> int:
        """Cycles between two results of the array: draining rows x cols accumulators."""
        return self.rows * self.granules_per_drain * self.requantise_cycles

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
        """Multiply-accumulate operations of a cycle in which the array is busy, on average over a step."""
        return self.rows * self.cols * self.unit.macs_per_cycle(self.precision)
