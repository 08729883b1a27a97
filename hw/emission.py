"""What elaboration for Verilog does differently from elaboration for Amaranth's simulator.

A component asks the ``platform`` that Amaranth hands to ``elaborate``. It is an :class:`Emission` where
Verilog is being made, and None in simulation.
"""

from typing import TypeVar, cast

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring

__all__ = ["Emission", "never_elaborated", "share"]

T = TypeVar("T", bound=Elaboratable | None)


class Emission:
    """Collects the modules that are emitted once and instantiated many times.

    Attributes
    ----------
    modules
        Component of each such module, by module name.
    verilog
        Verilog text of modules that are not made by Amaranth, by module name.
    """

    def __init__(self) -> None:
        self.modules: dict[str, wiring.Component] = {}
        self.verilog: dict[str, str] = {}


def never_elaborated(elaboratable: T) -> T:
    """The same, which Amaranth does not warn of when it is dropped: it was made for its description only."""
    if elaboratable is not None:
        object.__setattr__(elaboratable, "_MustUse__silence", True)
    return elaboratable


def share(platform: object, name: str, component: wiring.Component) -> Elaboratable:
    """The component itself, or for Verilog an instance of a module that all its equals share.

    Every component given the same name must have been made from the same parameters. The component uses
    the domain ``sync`` only.

    Parameters
    ----------
    platform
        What ``elaborate`` was given.
    name
        Name of the shared module.
    component
        Its ports are used as they are.
    """
    if not isinstance(platform, Emission):
        return component
    if name not in platform.modules:
        platform.modules[name] = component
    else:
        never_elaborated(component)
    ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
    for path, member, value in component.signature.flatten(component):
        direction = "o" if member.flow == wiring.Out else "i"
        ports[f"{direction}_{'__'.join(str(part) for part in path)}"] = Value.cast(value)
    return cast(Elaboratable, Instance(name, **ports))
