"""The engine's configuration: every parameter, every derived width, every cross-field check."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from .errors import ConfigError
from .formats import Int

__all__ = ["CHANNEL_BITS", "INSTRUCTION_BITS", "EngineConfig"]

INSTRUCTION_BITS = 256
"""Width of every instruction."""

CHANNEL_BITS = 96
"""Width of one output channel's quantisation parameters (see :mod:`bitwright.hw.quant.requantise`)."""


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


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

    pe: Literal["parallel"] = "parallel"
    """Dot-product unit: `parallel` multiplies every lane in every cycle."""

    rows: int = 1
    """M: output rows (pixels, batch items) computed at a time, 1 to 16."""

    cols: int
    """N: output channels computed at a time, 1 to 128."""

    lanes: int
    """K: positions of the dot product taken per cycle, 1 to 128."""

    activation_bits: Literal[2, 4, 8] = 8
    """Width of a stored activation."""

    weight_bits: Literal[2, 4, 8] = 8
    """Width of a stored weight."""

    multiplier: Literal["dsp", "lut"] = "dsp"
    """Whether a lane's product is left to the target's multiplier blocks or built from adders."""

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
            ("lanes", 1, 128),
            ("reduction", 1, 65536),
            ("requantisers", 1, 16),
            ("address_bits", 16, 32),
        ):
            value = getattr(self, key)
            if not low <= value <= high:
                raise ConfigError(key, value, f"from {low} to {high}")
        for key, choices in (
            ("pe", ("parallel",)),
            ("activation_bits", (2, 4, 8)),
            ("weight_bits", (2, 4, 8)),
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
        if not _is_power_of_two(self.requantisers) or self.cols % self.requantisers:
            raise ConfigError(
                "requantisers", self.requantisers, f"a power of two that divides cols = {self.cols}"
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
                f"such that lanes x activation_bits = {word} divides, "
                f"or is a multiple of, bus_bits = {self.bus_bits}",
            )
        word = self.weight_word_bits
        if word < self.bus_bits and self.bus_bits % word:
            raise ConfigError(
                "cols",
                self.cols,
                f"such that cols x lanes x weight_bits = {word} divides, "
                f"or is at least, bus_bits = {self.bus_bits}",
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
    def weight(self) -> Int:
        """Format of a stored weight."""
        return Int(self.weight_bits)

    @property
    def accumulator_bits(self) -> int:
        """Width that holds `reduction` products of the most negative operands, w + a + ceil(log2 K)."""
        return self.activation_bits + self.weight_bits - 1 + (self.reduction - 1).bit_length() + 1

    # Words and layouts

    @property
    def bus_bytes(self) -> int:
        """Bytes of a bus word; the unit of every memory address in an instruction."""
        return self.bus_bits // 8

    @property
    def activation_word_bits(self) -> int:
        """One step's activations of one row."""
        return self.lanes * self.activation_bits

    @property
    def weight_word_bits(self) -> int:
        """One step's weights of all columns."""
        return self.cols * self.lanes * self.weight_bits

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
        return self.rows * self.granules_per_group * self.requantise_cycles

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
    def peak_macs_per_cycle(self) -> int:
        """Multiply-accumulate operations of a cycle in which the array is busy."""
        return self.rows * self.cols * self.lanes
