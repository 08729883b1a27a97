"""PLL settings: what the data sheets allow, and as near to the clock that is asked for as any."""

import random
from itertools import product

import pytest
from amaranth.hdl import Signal
from hypothesis import given
from hypothesis import strategies as st

from bitwright.boards.pll import TOLERANCE, Ecp5Pll, Ice40Pll
from bitwright.hw.errors import ConfigError

KINDS = [
    # Class; oscillator; comparison
    (Ice40Pll, (533, 1066), (10, 133)),
    (Ecp5Pll, (400, 800), (10, 400)),
]


def dividers(pll):
    if isinstance(pll, Ice40Pll):
        return [(pll.divr, 0, 15), (pll.divf, 0, 127), (pll.divq, 1, 6)]
    return [(value, 1, 128) for value in (pll.clki_div, pll.clkop_div, pll.clkos_div)]


@pytest.mark.parametrize(("kind", "oscillator", "comparison"), KINDS)
@given(data=st.data())
def test_settings_are_allowed(kind, oscillator, comparison, data):
    input_mhz = data.draw(st.floats(10, 133))
    output_mhz = data.draw(st.floats(kind.output_range[0], min(kind.output_range[1], 400)))
    try:
        pll = kind.make(input_mhz, output_mhz)
    except ConfigError:
        # That none is nearer, the next test shows.
        return
    assert abs(pll.output_mhz - output_mhz) <= TOLERANCE * output_mhz
    assert oscillator[0] <= pll.oscillator_mhz <= oscillator[1]
    assert comparison[0] <= pll.comparison_mhz <= comparison[1]
    assert all(low <= value <= high for value, low, high in dividers(pll))


def every_output(kind, input_mhz):
    """Every output that the formula of the data sheet gives within its ranges, counted the plain way."""
    if kind is Ice40Pll:
        for divr, divf, divq in product(range(16), range(128), range(1, 7)):
            compared = input_mhz / (divr + 1)
            if 10 <= compared <= 133 and 533 <= compared * (divf + 1) <= 1066:
                yield compared * (divf + 1) / 2**divq
    else:
        for clki, clkop in product(range(1, 129), range(1, 129)):
            oscillator = input_mhz / clki * clkop
            if 10 <= input_mhz / clki <= 400 and 400 <= oscillator <= 800:
                yield from (oscillator / clkos for clkos in range(1, 129))


@pytest.mark.parametrize("kind", [Ice40Pll, Ecp5Pll])
@pytest.mark.parametrize("input_mhz", [12.0, 27.0, 100.0])
def test_none_is_nearer(kind, input_mhz, seed):
    rng = random.Random(seed)
    outputs = list(every_output(kind, input_mhz))
    low, high = kind.output_range
    for _ in range(10):
        wanted = rng.uniform(low, min(high, 200))
        nearest = min(abs(output - wanted) for output in outputs if output <= high * 1.01)
        if nearest > TOLERANCE * wanted:
            with pytest.raises(ConfigError, match="can make of"):
                kind.make(input_mhz, wanted)
        else:
            assert abs(kind.make(input_mhz, wanted).output_mhz - wanted) == pytest.approx(nearest, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "input_mhz", "output_mhz", "settings"),
    [
        # As icepll, of the open toolchain, prints them
        (Ice40Pll, 12, 48, {"divr": 0, "divf": 63, "divq": 4, "filter_range": 1}),
        (Ice40Pll, 12, 24, {"divr": 0, "divf": 63, "divq": 5, "filter_range": 1}),
        (Ecp5Pll, 25, 80, {"clki_div": 1, "clkop_div": 16, "clkos_div": 5}),
    ],
)
def test_well_known_settings(kind, input_mhz, output_mhz, settings):
    pll = kind.make(input_mhz, output_mhz)
    assert {name: getattr(pll, name) for name in settings} == settings
    assert pll.output_mhz == output_mhz


@pytest.mark.parametrize(
    ("kind", "input_mhz", "output_mhz", "match"),
    [
        (Ice40Pll, 12, 15, "clock = 15: must be from 16 to 275 MHz"),
        (Ice40Pll, 12, 300, "must be from 16 to 275 MHz"),
        (Ice40Pll, 5, 48, "clock = 5: must be from 10 to 133 MHz where it goes into SB_PLL40"),
        (Ecp5Pll, 25, 5, "must be from 10 to 400 MHz"),
        (Ice40Pll, 16, 267.9, "a clock that SB_PLL40 can make of 16 MHz; the nearest is 264 MHz"),
    ],
)
def test_refuses(kind, input_mhz, output_mhz, match):
    with pytest.raises(ConfigError, match=match):
        kind.make(input_mhz, output_mhz)


@pytest.mark.parametrize(
    ("pll", "primitive", "clock_port"),
    [
        (Ice40Pll.make(12, 24), "SB_PLL40_CORE", "REFERENCECLK"),
        (Ice40Pll(input_mhz=12, divr=0, divf=63, divq=5, pad=True), "SB_PLL40_PAD", "PACKAGEPIN"),
        (Ecp5Pll.make(25, 80), "EHXPLLL", "CLKI"),
    ],
)
def test_instance(pll, primitive, clock_port):
    clock = Signal()
    instance = pll.instance(clock, Signal(), Signal())
    assert instance.type == primitive
    assert instance.ports[clock_port][0] is clock
