"""Bias, fixed-point scaling with the rounding of TFLite or ONNX, clamp, and zero point."""

from collections.abc import Mapping

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import CHANNEL_BITS
from ..delay import delay, held_delay, pulses
from ..pe.multiplier import BlockMultiplier
from .arithmetic import MAX_LEFT_SHIFT, Rounding

__all__ = ["CHANNEL", "Requantiser", "encode_channel"]

CHANNEL = data.StructLayout(
    {
        "multiplier": unsigned(31),
        "rounding": unsigned(1),  # 0 as TFLite, 1 half to even
        "bias": signed(32),
        "exponent": unsigned(6),  # MAX_LEFT_SHIFT - shift
        "zero_point": unsigned(8),  # modulo 256
        "low": signed(9),  # bounds of the scaled value before the zero point is added
        "high": signed(9),
    }
)
"""Quantisation parameters of an output channel, 96 bits."""
assert CHANNEL.size == CHANNEL_BITS


def encode_channel(
    *, bias: int, multiplier: int, shift: int, rounding: Rounding, zero_point: int, low: int, high: int
) -> int:
    """Bit pattern of a channel's parameters.

    Parameters
    ----------
    bias
        Added to the accumulator; int32.
    multiplier, shift
        The scale is ``multiplier * 2**(shift - 31)``; shift from -31 to 6.
    rounding
        ``"tflite"`` or ``"half_even"``.
    zero_point, low, high
        In codes of the stored output: added after scaling, and the clamp's bounds.

    Raises
    ------
    ValueError
        A value does not fit its field.
    """
    fields: Mapping[str, int] = {
        "multiplier": multiplier,
        "rounding": int(rounding == "half_even"),
        "bias": bias,
        "exponent": MAX_LEFT_SHIFT - shift,
        "zero_point": zero_point & 255,
        "low": low - zero_point,
        "high": high - zero_point,
    }
    word = 0
    for name, value in fields.items():
        field = CHANNEL[name]
        shape = Shape.cast(field.shape)
        least = -(1 << shape.width - 1) if shape.signed else 0
        if not least <= value < least + (1 << shape.width):
            raise ValueError(f"Quantisation parameter {name} = {value} does not fit {shape!r}")
        word |= (value & (1 << shape.width) - 1) << field.offset
    return word


class _Multiplier(wiring.Component):
    """``x * m = p + rest * 2**31`` for signed 32-bit x and unsigned 31-bit m, from unsigned 16 x 16 products.

    Unsigned 16 x 16 is what the multiplier blocks of every target take whole. With ``cycles`` = 1, four of
    them (s: sign bit)::

        x = xh * 2**16 + xl - s * 2**32
        p = (xh*mh - s*m) * 2**32 + (xl*mh + xh*ml) * 2**16 + xl*ml          rest = 0

    With ``cycles`` = 4 one block makes the products in turn, for one adder, of x with its sign bit inverted,
    and what is to be taken off for that is left to the adder of whoever rounds::

        x + 2**31 = xh * 2**16 + xl
        p = (x + 2**31) * m + 2**31                                          rest = -m - 1 = ~m

        step    sum
        0       2**31 + xl*ml
        1       sum >> 16, the rest of it is done:  + xl*mh
        2       sum + xh*ml
        3       sum >> 16, the rest of it is done:  + xh*mh

    Then ``x``, ``m`` must be held for four cycles from ``start`` on.

    Parameters
    ----------
    cycles
        1 or 4.

    Members
    -------
    start, x, m : operands
    p, rest : the product, :attr:`latency` cycles later, modulo 2**64
    """

    @staticmethod
    def latency_of(cycles: int) -> int:
        """Cycles from ``start`` to the product."""
        return BlockMultiplier.LATENCY + (2 if cycles == 1 else 4)

    def __init__(self, cycles: int):
        self.cycles = cycles
        self.latency = self.latency_of(cycles)
        super().__init__(
            {
                "start": In(1),
                "x": In(data.StructLayout({"value": signed(32)})),
                "m": In(31),
                "p": Out(64),
                "rest": Out(data.StructLayout({"value": signed(32)})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x = self.x.value.as_unsigned()
        if self.cycles == 4:
            x ^= 1 << 31
        # Order: low·low, low·high, high·low, high·high
        pairs = [(x[16 * i :][:16], self.m[16 * j :][:16]) for i in range(2) for j in range(2)]
        low = Signal(32, reset_less=True)
        if self.cycles == 1:
            correction = Mux(x[31], self.m, 0)
            products = []
            for index, (a, b) in enumerate(pairs):
                block = BlockMultiplier(16, 16, signed=False)
                m.submodules[f"block_{index}"] = block
                m.d.comb += [block.a.eq(a), block.b.eq(b)]
                products.append(block.product)
            middle = Signal(33, reset_less=True)
            high = Signal(signed(33), reset_less=True)
            total = Signal(signed(48), reset_less=True)
            bottom = Signal(16, reset_less=True)
            m.d.sync += [
                middle.eq(products[1] + products[2]),
                high.eq(products[3] - delay(m, correction, BlockMultiplier.LATENCY, "correction")),
                low.eq(products[0]),
                total.eq(Cat(low[16:], high[:32]).as_signed() + middle),
                bottom.eq(low[:16]),
            ]
            m.d.comb += self.p.eq(Cat(bottom, total))
            return m

        m.submodules.block = block = BlockMultiplier(16, 16, signed=False)
        steps = pulses(m, self.start, 3 + BlockMultiplier.LATENCY, "step")
        arrives = steps[BlockMultiplier.LATENCY :]
        m.d.comb += [
            block.a.eq(Mux(steps[2] | steps[3], pairs[2][0], pairs[0][0])),
            block.b.eq(Mux(steps[1] | steps[3], pairs[1][1], pairs[0][1])),
        ]
        total = Signal(33, reset_less=True)
        addend = Mux(arrives[0], 1 << 31, Mux(arrives[1] | arrives[3], total >> 16, total))
        m.d.sync += total.eq(addend + block.product)
        with m.If(arrives[1]):
            m.d.sync += low[:16].eq(total[:16])
        with m.If(arrives[3]):
            m.d.sync += low[16:].eq(total[:16])
        rest = held_delay(m, ~self.m, self.latency, "rest", pulses=steps, every=self.cycles, held=self.cycles)
        m.d.comb += [self.p.eq(Cat(low, total[:32])), self.rest.value.eq(Cat(rest, 1).as_signed())]
        return m


class Requantiser(wiring.Component):
    """``y = clamp(round((acc + bias) * multiplier * 2**(shift - 31))) + zero_point``.

    Rounding follows :mod:`bitwright.hw.quant.arithmetic`, bit for bit. The result is the low ``bits``
    bits of y.

    ::

        stage  what                                              width
        1      x = acc + bias                                    32
        2-5    p = x * multiplier                                63   (6 stages from one multiplier block)
        6      v = p >> 24, and for TFLite's first rounding      39
                   the lower 7 bits dropped into bit 7
        7      v >>= 8 * coarse, collecting sticky, overflow     18
        8      v >>= fine; the lowest bit is the guard bit       11
        9      round up or not; saturate                         10
        10     clamp                                             9
        11     add the zero point                                8

    Parameters
    ----------
    accumulator_bits
        Width of ``acc``; sign-extended to 32.
    bits
        Width of the result.
    cycles
        1: an element per cycle, four 16x16 multipliers. 4: an element every four cycles, one multiplier;
        ``acc`` and ``channel`` must be held for four cycles.

    Members
    -------
    start, acc, channel : an element and its channel's parameters (:data:`CHANNEL`)
    done, o : the result, :attr:`latency` cycles after ``start``
    """

    @staticmethod
    def latency_of(cycles: int) -> int:
        """Cycles from ``start`` to ``done``."""
        return 7 + _Multiplier.latency_of(cycles)

    def __init__(self, *, accumulator_bits: int, bits: int, cycles: int):
        self.accumulator_bits = accumulator_bits
        self.bits = bits
        self.cycles = cycles
        self._multiplier_latency = _Multiplier.latency_of(cycles)
        self.latency = self.latency_of(cycles)
        super().__init__(
            {
                "start": In(1),
                "acc": In(data.StructLayout({"value": signed(accumulator_bits)})),
                "channel": In(CHANNEL),
                "done": Out(1),
                "o": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = _Multiplier(self.cycles)

        channel = self.channel
        # `channel` stays for `cycles` cycles, so later stages can have it from few registers.
        elements = pulses(m, self.start, self.latency, "element")

        def later(value: Value, stages: int, name: str) -> Value:
            return held_delay(m, value, stages, name, pulses=elements, every=self.cycles, held=self.cycles)

        # 1: bias
        x = Signal(signed(32), reset_less=True)
        factor = Signal(31, reset_less=True)
        m.d.sync += [x.eq(self.acc.value + channel.bias), factor.eq(channel.multiplier)]

        # 2-5: product
        m.d.comb += [
            multiplier.start.eq(elements[1]),
            multiplier.x.value.eq(x),
            multiplier.m.eq(factor),
        ]
        p = multiplier.p
        stages = 1 + self._multiplier_latency
        exponent = later(channel.exponent, stages, "exponent")
        half_even = later(channel.rounding, stages, "rounding")

        # 6: TFLite's first rounding applies unless the scale shifts left
        shifts_left = exponent < MAX_LEFT_SHIFT
        round_first = ~half_even & ~shifts_left
        high = Signal(signed(32), reset_less=True)
        fraction = Signal(7, reset_less=True)
        sticky_low = Signal(reset_less=True)
        amount = Signal(6, reset_less=True)
        # What a tie does: TFLite rounds away from zero, or up if it is the only rounding.
        tie_up = Signal(reset_less=True)
        tie_even = Signal(reset_less=True)
        m.d.sync += [
            # Both, and the rounding as a carry that comes in.
            high.eq((Cat(1, p[31:]) + Cat(round_first & p[30], multiplier.rest.value))[1:]),
            fraction.eq(Mux(round_first, 0, p[24:31])),
            sticky_low.eq(half_even & p[:24].any()),
            amount.eq(exponent),
            tie_even.eq(half_even),
            tie_up.eq(shifts_left),
        ]
        v = Cat(fraction, high).as_signed()  # 39 bits; shifting right by `amount` leaves the guard bit lowest
        sign = high[31]

        # 7: shift by multiples of 8
        coarse = amount[3:]
        fine_6 = Signal(3, reset_less=True)
        v_6 = Signal(18, reset_less=True)
        sticky_6 = Signal(reset_less=True)
        overflow_6 = Signal(reset_less=True)
        sign_6 = Signal(reset_less=True)
        tie_up_6 = Signal(reset_less=True)
        tie_even_6 = Signal(reset_less=True)
        dropped = [v[8 * byte : 8 * byte + 8].any() for byte in range(4)]
        flipped = v.as_unsigned() ^ sign.replicate(len(v))
        above = [flipped[low : low + 8].any() for low in (18, 26, 34)]
        extended = Cat(v, sign.replicate(32 + 18 - len(v)))
        windows = [extended[8 * step :][:18] for step in range(5)]
        stickies: list[Value] = [Const(0)]
        for byte in range(4):
            stickies.append(Cat(*dropped[: byte + 1]).any())
        overflows: list[Value] = [Cat(*above[step:]).any() if step < 3 else Const(0) for step in range(5)]
        m.d.sync += [
            fine_6.eq(amount[:3]),
            v_6.eq(Array(windows)[coarse]),
            sticky_6.eq(sticky_low | Array(stickies)[coarse]),
            overflow_6.eq(Array(overflows)[coarse]),
            sign_6.eq(sign),
            tie_up_6.eq(tie_up | ~sign),
            tie_even_6.eq(tie_even),
        ]

        # 8: shift by 0 to 7
        v_7 = Signal(11, reset_less=True)
        sticky_7 = Signal(reset_less=True)
        overflow_7 = Signal(reset_less=True)
        sign_7 = Signal(reset_less=True)
        tie_up_7 = Signal(reset_less=True)
        tie_even_7 = Signal(reset_less=True)
        flipped_6 = v_6 ^ sign_6.replicate(18)
        m.d.sync += [
            v_7.eq(v_6 >> fine_6),
            sticky_7.eq(
                sticky_6 | Array(v_6[:step].any() if step else Const(0) for step in range(8))[fine_6]
            ),
            overflow_7.eq(overflow_6 | Array(flipped_6[10 + step :].any() for step in range(8))[fine_6]),
            sign_7.eq(sign_6),
            tie_up_7.eq(tie_up_6),
            tie_even_7.eq(tie_even_6),
        ]

        # 9: round, saturate to 10 bits, beyond every bound of the clamp
        guard = v_7[0]
        quotient = v_7[1:].as_signed()
        up = guard & (sticky_7 | Mux(tie_even_7, v_7[1], tie_up_7))
        rounded = Signal(signed(11), reset_less=True)
        m.d.sync += rounded.eq(
            Mux(overflow_7, Cat((~sign_7).replicate(9), sign_7).as_signed(), quotient + up)
        )

        # 10: clamp
        stages = 5 + self._multiplier_latency
        low = later(channel.low, stages, "low").as_signed()
        high_bound = later(channel.high, stages, "high").as_signed()
        clamped = Signal(signed(9), reset_less=True)
        with m.If(rounded < low):
            m.d.sync += clamped.eq(low)
        with m.Elif(rounded > high_bound):
            m.d.sync += clamped.eq(high_bound)
        with m.Else():
            m.d.sync += clamped.eq(rounded)

        # 11: zero point
        zero_point = later(channel.zero_point, stages + 1, "zero_point")
        m.d.sync += self.o.eq(clamped + zero_point)

        m.d.comb += self.done.eq(elements[self.latency])
        return m
