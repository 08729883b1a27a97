"""The plain dot-product unit: every lane multiplies in every cycle."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..reduce.adder_tree import AdderTree

__all__ = ["ParallelSpec", "ParallelUnit", "RowMultiplier"]


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
        return 1 + (self.lanes - 1).bit_length()


class RowMultiplier(wiring.Component):
    """Signed product from one row of AND gates per weight bit, added pairwise.

    ``o = a * w = sum(2**j * a * w[j] for j < n - 1) - 2**(n - 1) * a * w[n - 1]``

    No ``*`` is left for synthesis to put into a multiplier block.

    Parameters
    ----------
    activation_bits, weight_bits
        Operand widths, both signed.
    """

    def __init__(self, activation_bits: int, weight_bits: int):
        self.activation_bits = activation_bits
        self.weight_bits = weight_bits
        super().__init__(
            {
                "a": In(data.StructLayout({"value": signed(activation_bits)})),
                "w": In(data.StructLayout({"value": signed(weight_bits)})),
                "o": Out(data.StructLayout({"value": signed(activation_bits + weight_bits)})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = self.a.value
        w = self.w.value.as_unsigned()
        top = self.weight_bits - 1
        rows: list[tuple[int, Value]] = []  # (weight of the row, a or 0)
        for bit in range(top):
            rows.append((bit, Mux(w[bit], a, 0).as_signed()))
        last: Value = Mux(w[top], a, 0).as_signed()
        while len(rows) > 1:
            pairs = []
            for index in range(0, len(rows) - 1, 2):
                (low, x), (high, y) = rows[index], rows[index + 1]
                keep = high - low  # the low bits pass by the adder
                total = Cat(x[:keep], (x >> keep) + y).as_signed()
                pairs.append((low, total))
            if len(rows) % 2:
                pairs.append(rows[-1])
            rows = pairs
        positive = rows[0][1] if rows else 0
        m.d.comb += self.o.value.eq(positive - (last << top))
        return m


class ParallelUnit(wiring.Component):
    """Dot product of ``lanes`` signed activations and weights, accumulated over beats.

    ::

        a[0] w[0] ── × ─[reg]─┐
        a[1] w[1] ── × ─[reg]─┤ adder tree, a register per level ─┬─ + ───┬── o
           ...                │                                   │  ▲    │
        a[K] w[K] ── × ─[reg]─┘                                   │  acc ◄┘  (zero after `last`)

        cycle   t        t+1       t+2 … t+latency-1     t+latency
        what    operands products  tree                  o = acc + sum, o_valid if `last`

    ``o = sum(a[t][k] * w[t][k])`` over the beats since the one after the previous ``last``, modulo
    ``2**accumulator_bits``. The accumulator is cleared by the flip-flops' own synchronous reset as a
    result leaves, which costs no logic; so ``o`` has to be taken in the cycle in which it is valid.

    Operands are expected straight from registers.

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
            product = Signal(Shape(spec.product_bits, signed=True), name=f"product_{lane}", reset_less=True)
            if spec.multiplier == "dsp":
                m.d.sync += product.eq(self.a[lane] * self.w[lane])
            else:
                multiplier = RowMultiplier(spec.activation_bits, spec.weight_bits)
                m.submodules[f"multiplier_{lane}"] = multiplier
                m.d.comb += [
                    multiplier.a.value.eq(self.a[lane]),
                    multiplier.w.value.eq(self.w[lane]),
                ]
                m.d.sync += product.eq(multiplier.o.value)
            m.d.comb += tree.i[lane].eq(product)

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
