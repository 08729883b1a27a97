"""The plain dot-product unit: every lane multiplies in every cycle."""

from dataclasses import dataclass

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..reduce.adder_tree import AdderTree
from .multiplier import BlockMultiplier, RowMultiplier

__all__ = ["ParallelSpec", "ParallelUnit"]


@dataclass(frozen=True, kw_only=True)
class ParallelSpec:
    """What arrays, sequencer and cycle model need to know of the unit; no hardware.

    Parameters
    ----------
    lanes
        Products per cycle.
    activation_bits, weight_bits
        Operand widths; both signed, packed layout.
    accumulator_bits
        Width of the accumulator; it wraps.
    multiplier
        ``"dsp"`` or ``"lut"``.
    """

    lanes: int
    activation_bits: int
    weight_bits: int
    accumulator_bits: int
    multiplier: str

    @classmethod
    def of(cls, config: EngineConfig) -> "ParallelSpec":
        """The unit that a configuration asks for."""
        return cls(
            lanes=config.lanes,
            activation_bits=config.activation_bits,
            weight_bits=config.weight_bits,
            accumulator_bits=config.accumulator_bits,
            multiplier=config.multiplier,
        )

    @property
    def product_bits(self) -> int:
        """Width of a lane's product."""
        return self.activation_bits + self.weight_bits

    @property
    def latency(self) -> int:
        """Cycles from a beat's operands to the sum that includes them: product, then the tree's levels."""
        return BlockMultiplier.LATENCY + (self.lanes - 1).bit_length()


class ParallelUnit(wiring.Component):
    """Dot product of ``lanes`` signed activations and weights, accumulated over beats.

    ::

        a[0] w[0] ─[reg]─ × ─[reg]─┐
        a[1] w[1] ─[reg]─ × ─[reg]─┤ adder tree, a register per level ─── + ───┬── o
           ...                     │                                      ▲    │
        a[K] w[K] ─[reg]─ × ─[reg]─┘                                     acc ◄─┘  (zero after `last`)

        cycle   t         t+2       t+3 … t+latency     t+latency
        what    operands  products  sums of the tree    o = acc + sum, o_valid if `last`

    ``o = sum(a[t][k] * w[t][k])`` over the beats since the one after the previous ``last``, modulo
    ``2**accumulator_bits``. The accumulator is cleared by the flip-flops' own synchronous reset as a
    result leaves, which costs no logic; so ``o`` has to be taken in the cycle in which it is valid.

    The registers around a multiplier are those of the multiplier block.

    Parameters
    ----------
    spec
        Widths and kind of multiplier.

    Members
    -------
    a, w : packed operands of one beat
    valid, last : the beat exists; it is the last of its dot product
    o, o_valid : the dot product, ``spec.latency`` cycles after its last beat
    """

    def __init__(self, spec: ParallelSpec):
        self.spec = spec
        super().__init__(
            {
                "a": In(data.ArrayLayout(signed(spec.activation_bits), spec.lanes)),
                "w": In(data.ArrayLayout(signed(spec.weight_bits), spec.lanes)),
                "valid": In(1),
                "last": In(1),
                "o": Out(data.StructLayout({"sum": signed(spec.accumulator_bits)})),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        m.submodules.tree = tree = AdderTree(spec.lanes, spec.product_bits)

        for lane in range(spec.lanes):
            multiplier: BlockMultiplier | RowMultiplier
            if spec.multiplier == "dsp":
                multiplier = BlockMultiplier(spec.activation_bits, spec.weight_bits, signed=True)
            else:
                multiplier = RowMultiplier(spec.activation_bits, spec.weight_bits)
            m.submodules[f"multiplier_{lane}"] = multiplier
            m.d.comb += [
                multiplier.a.eq(self.a[lane]),
                multiplier.b.eq(self.w[lane]),
                tree.i[lane].eq(multiplier.product.as_signed()),
            ]

        valid, last = self.valid, self.valid & self.last
        for stage in range(spec.latency):
            next_valid = Signal(name=f"valid_{stage + 1}")
            next_last = Signal(name=f"last_{stage + 1}")
            m.d.sync += [next_valid.eq(valid), next_last.eq(last)]
            valid, last = next_valid, next_last

        accumulator = Signal(signed(spec.accumulator_bits))
        total = Signal(signed(spec.accumulator_bits))
        m.d.comb += [
            total.eq(accumulator + tree.o.sum),
            self.o.sum.eq(total),
            self.o_valid.eq(last),
        ]
        with m.If(last):
            m.d.sync += accumulator.eq(0)
        with m.Elif(valid):
            m.d.sync += accumulator.eq(total)
        return m
