"""Elaboration for Verilog: modules that are emitted once, and memories that are not emitted at all."""

import gc
import re
import warnings

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.hw.array.output_stationary import OutputStationaryArray
from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import Emission, share
from bitwright.hw.memory.ram import Ram


class Pair(wiring.Component):
    """A sum, with ports of every kind."""

    def __init__(self):
        super().__init__({"i": In(4).array(2), "enable": In(1), "o": Out(5)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.o.eq(self.i[0] + self.i[1])
        return m


class Parent(wiring.Component):
    def __init__(self, count):
        self.count = count
        super().__init__({"i": In(4).array(2), "enable": In(1), "o": Out(5).array(count)})

    def elaborate(self, platform):
        m = Module()
        for index in range(self.count):
            pair = Pair()
            m.submodules[f"pair_{index}"] = share(platform, "pair", pair)
            m.d.comb += [
                pair.i[0].eq(self.i[0]),
                pair.i[1].eq(self.i[1]),
                pair.enable.eq(self.enable),
                self.o[index].eq(pair.o),
            ]
        return m


def emit(component, platform, name="top"):
    return rtlil.convert(component, name=name, platform=platform, emit_src=False)


def cells(text, kind):
    """Connections of every instance of a module."""
    found = re.findall(rf"cell \\{kind} .*?\n(.*?)\n\s*end", text, re.DOTALL)
    return [dict(re.findall(r"connect \\(\S+) (.*)", body)) for body in found]


def test_simulation_gets_the_component_itself():
    pair = Pair()
    assert share(None, "pair", pair) is pair
    object.__setattr__(pair, "_MustUse__silence", True)


def test_one_module_and_many_instances():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        platform = Emission()
        text = emit(Parent(3), platform)
        assert list(platform.modules) == ["pair"]
        module = emit(platform.modules["pair"], platform, "pair")
        gc.collect()
    # Two of the three components were never elaborated, as was meant.
    assert not [str(warning.message) for warning in caught if "Pair" in str(warning.message)]

    instances = cells(text, "pair")
    assert len(instances) == 3
    ports = {
        name: direction for direction, name in re.findall(r"wire .*?(input|output) \d+ +\\(\S+)", module)
    }
    assert ports == {
        "i__0": "input",
        "i__1": "input",
        "enable": "input",
        "o": "output",
        "clk": "input",
        "rst": "input",
    }
    for instance in instances:
        assert instance.keys() == ports.keys()


def test_two_names_are_two_modules():
    platform = Emission()
    first, second = Pair(), Pair()
    assert isinstance(share(platform, "one", first), Instance)
    assert isinstance(share(platform, "two", second), Instance)
    assert platform.modules == {"one": first, "two": second}
    for name, component in platform.modules.items():
        emit(component, platform, name)


def test_array_shares_its_units():
    config = EngineConfig(
        rows=2,
        cols=3,
        lanes=4,
        bus_bits=32,
        activation_depth=16,
        weight_depth=16,
        channel_depth=16,
        output_depth=16,
    )
    platform = Emission()
    text = emit(
        OutputStationaryArray(config.unit, config.rows, config.cols, step=config.requantisers), platform
    )
    assert list(platform.modules) == ["dot_product_unit"]
    assert len(cells(text, "dot_product_unit")) == 6
    assert "unit_0_0" in text
    emit(platform.modules["dot_product_unit"], platform)


@pytest.mark.parametrize(
    ("width", "depth", "granule"), [(8, 16, None), (32, 64, 8), (5, 2, None), (8, 1, None)]
)
def test_ram_is_an_instance_of_its_own_module(width, depth, granule):
    platform = Emission()
    text = emit(Ram(width=width, depth=depth, granule=granule), platform)
    assert "memory" not in text
    assert list(platform.verilog) == ["bitwright_ram"]
    verilog = platform.verilog["bitwright_ram"]
    (instance,) = cells(text, "bitwright_ram")
    ports = re.findall(r"^\s*(?:input|output)(?: reg)?(?: \[.*?\])? (\w+),?$", verilog, re.MULTILINE)
    assert sorted(instance) == sorted(ports)
    parameters = dict(re.findall(r"parameter \\(\w+) (\d+)", text))
    assert parameters == {
        "WIDTH": str(width),
        "GRANULE": str(granule or width),
        "DEPTH": str(depth),
        # A port of no bits would be left open, and read as two unknown ones.
        "ADDRESS": str(max(1, (depth - 1).bit_length())),
    }
    assert not [name for name, value in instance.items() if value.replace(" ", "") == "{}"]


def test_rams_share_one_text():
    class Two(wiring.Component):
        def __init__(self):
            super().__init__({})

        def elaborate(self, platform):
            m = Module()
            m.submodules.a = Ram(width=8, depth=16)
            m.submodules.b = Ram(width=32, depth=4, granule=8)
            return m

    platform = Emission()
    text = emit(Two(), platform)
    assert len(cells(text, "bitwright_ram")) == 2
    assert len(platform.verilog) == 1
