"""A circuit around a component that says what it must do: claims, assumptions, and what must be reachable."""

from collections.abc import Callable, Sequence
from typing import Any

from amaranth.asserts import AnyConst, AnySeq, Initial
from amaranth.hdl import Cat, ClockDomain, Const, Elaboratable, Module, Mux, ShapeCastable, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import In

__all__ = ["Bench", "Build", "Scoreboard"]

Build = Callable[["Bench"], None]
"""Adds a component, what drives it and what it must do to a bench."""


class Bench(Elaboratable):  # type: ignore[misc]  # Amaranth has no type information
    """A circuit whose output ``bad`` is 0 for ever if its claims hold.

    The first cycle is the reset's, before which registers have any value. Claims and goals count after it,
    for as long as all assumptions have held.

    Parameters
    ----------
    build
        Fills it.

    Attributes
    ----------
    m : the module to add to
    claims, goals : names of what has been claimed, and of what must be able to happen
    """

    def __init__(self, build: Build):
        self.m = Module()
        self.claims: list[str] = []
        self.goals: list[str] = []
        self._claims: list[Value] = []
        self._goals: list[Value] = []
        self._assumptions: list[Value] = []
        self._shown: list[Signal] = []
        self.peeked: dict[str, str] = {}
        """Registers inside components, by the name of the signal that shows them."""
        self.cuts: list[str] = []
        """Components that have been taken out, by their path."""
        self._free = 0
        self._peeks: list[Signal] = []
        self.clk = Signal()
        self.reset = Signal()
        """The first cycle."""
        self.m.domains.sync = sync = ClockDomain("sync")
        self.m.d.comb += [sync.clk.eq(self.clk), self.reset.eq(Initial()), sync.rst.eq(self.reset)]
        build(self)
        self._bad = Signal(name="bad")
        self._goal = Signal(max(1, len(self._goals)), name="goals")
        self._holds = Signal(max(1, len(self._claims)), name="claims")

    def ports(self) -> list[Signal]:
        """Outputs first of all that are proved, in this order."""
        return [self.clk, self._bad, self._goal, self._holds, *self._shown, *self._peeks]

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = self.m
        held = Signal(init=1, name="assumed")
        so_far = Signal(name="assumed_so_far")
        m.d.comb += so_far.eq(held & Cat(self._assumptions).all() & ~self.reset)
        with m.If(~self.reset):
            m.d.sync += held.eq(so_far)
        m.d.comb += [
            self._holds.eq(Cat(self._claims)),
            self._bad.eq(so_far & ~Cat(self._claims).all()),
            self._goal.eq(Cat(so_far & goal for goal in self._goals)),
        ]
        return m

    def add(self, component: Any, name: str = "dut") -> Any:
        """Add a component; its inputs that nothing else drives are to be tied by the caller."""
        self.m.submodules[name] = component
        self.show(component, name)
        return component

    def show(self, component: Any, name: str) -> None:
        """Have a component's ports in traces."""
        for path, _, value in component.signature.flatten(component):
            value = Value.cast(value)
            if len(value):
                shown = Signal(len(value), name="_".join((name, *map(str, path))))
                self.m.d.comb += shown.eq(value)
                self._shown.append(shown)

    def rest(self, component: Any, *driven: Any) -> None:
        """Let every input of a component be anything, but those that are driven otherwise."""
        done = {id(each) for each in driven}
        for _, member, value in component.signature.flatten(component):
            if member.flow == In and id(value) not in done:
                self.free(value)

    def claim(self, name: str, holds: Value) -> None:
        """Claim that something is true in every cycle."""
        self.claims.append(name)
        self._claims.append(holds.any() if len(holds) > 1 else holds)

    def assume(self, holds: Value) -> None:
        """Look only at runs in which something is true in every cycle."""
        self._assumptions.append(holds.any() if len(holds) > 1 else holds)

    def goal(self, name: str, happens: Value) -> None:
        """Say that something can happen: that what is claimed and assumed does not exclude it."""
        self.goals.append(name)
        self._goals.append(happens.any() if len(happens) > 1 else happens)

    def anything(self, shape: Any = 1) -> Signal:
        """A signal that may have another value in every cycle."""
        return self._new(AnySeq(_width(shape)), shape)

    def constant(self, shape: Any = 1) -> Signal:
        """A signal of any value, the same for ever."""
        return self._new(AnyConst(_width(shape)), shape)

    def tag(self) -> int:
        """A number that no other signal's name has."""
        self._free += 1
        return self._free

    def _new(self, value: Value, shape: Any) -> Signal:
        signal = Signal(shape, name=f"any_{self.tag()}")
        self.m.d.comb += Value.cast(signal).eq(value)
        return signal

    def free(self, *inputs: Any) -> None:
        """Let inputs of a component be anything in every cycle."""
        for each in inputs:
            self.m.d.comb += Value.cast(each).eq(Value.cast(self.anything(len(Value.cast(each)))))

    def free_inputs(self, component: Any, *but: str) -> None:
        """Let all inputs of a component be anything, but those that are named, by prefix."""
        for path, member, value in component.signature.flatten(component):
            name = "_".join(map(str, path))
            if (
                member.flow == In
                and not any(name.startswith(each) for each in but)
                and len(Value.cast(value))
            ):
                self.free(value)

    def inside(self, path: str, width: int) -> Signal:
        """A signal inside a component, as ``dut.part.name``: for claims about how it works.

        An invariant over registers is what an inductive proof needs where what can be seen from outside does
        not say enough; it is claimed and proved like everything else.
        """
        signal = Signal(width, name=f"inside_{len(self._peeks)}")
        self._peeks.append(signal)
        self.peeked[signal.name] = path
        return signal

    def cut(self, path: str) -> None:
        """Take out a component, as ``dut.part``: its outputs may be anything in every cycle.

        What holds then, holds with the component.
        """
        self.cuts.append(path)

    def before(self, value: Any, *, init: int = 0) -> Signal:
        """The value in the cycle before; ``init`` in the first one after the reset."""
        value = Value.cast(value)
        register = Signal(len(value), init=init, name=f"before_{self.tag()}")
        self.m.d.sync += register.eq(value)
        return register

    def stays(self, valid: Value, ready: Value, *payload: Any) -> Value:
        """Whether what was offered and not taken in the cycle before is on offer still, unchanged.

        That is the rule of streams, and of each channel of AXI (ARM IHI 0022, A3.2.1).
        """
        waits = self.before(valid & ~ready)
        same: Value = Const(1)
        for each in payload:
            each = Value.cast(each)
            if len(each):
                same = same & (each == self.before(each))
        return ~waits | (valid & same)

    def soon(self, waiting: Value, happens: Value, cycles: int) -> Value:
        """Whether, while something waits without a break, it happens within so many cycles, this one counted.

        With 1, it happens in the cycle in which it begins to wait.
        """
        waited = Signal(range(cycles + 1), name=f"waited_{self.tag()}")
        more = waiting & ~happens
        self.m.d.sync += waited.eq(Mux(more, Mux(waited == cycles, cycles, waited + 1), 0))
        return ~(more & (waited >= cycles - 1))

    def count(self, up: Value, down: Value, greatest: int, *, init: int = 0) -> Signal:
        """How often something has happened more often than something else; it stops at either end."""
        count = Signal(range(greatest + 1), init=init, name=f"count_{self.tag()}")
        with self.m.If(up & ~down & (count != greatest)):
            self.m.d.sync += count.eq(count + 1)
        with self.m.Elif(down & ~up & (count != 0)):
            self.m.d.sync += count.eq(count - 1)
        return count


class Scoreboard:
    """Follows one element, any, through something that ought to give what it was given, in order.

    As which element is followed is free, what holds for it holds for all. The elements ahead of it are
    counted: so one that is lost, comes twice or overtakes is noticed when the followed one is due.

    Parameters
    ----------
    bench
        Where it counts.
    push, into
        An element comes, and which.
    pop, out
        One leaves, and which.
    offered
        One is offered, taken or not; `pop` unless given.
    greatest
        Most elements inside that it can count.
    name
        In front of the names of its claims.

    Attributes
    ----------
    inside : elements that have come and not left
    due : the one on offer is the one followed
    """

    def __init__(
        self,
        bench: Bench,
        *,
        push: Value,
        into: Any,
        pop: Value,
        out: Any,
        greatest: int,
        offered: Value | None = None,
        name: str = "",
    ):
        m = bench.m
        into, out = Value.cast(into), Value.cast(out)
        prefix = f"{name}: " if name else ""
        offered = pop if offered is None else offered
        tag = bench.tag()
        self.inside = Signal(range(greatest + 2), name=f"inside_of_{tag}")
        m.d.sync += self.inside.eq(self.inside + push - pop)
        following = Signal(name=f"following_{tag}")
        ahead = Signal(range(greatest + 2), name=f"ahead_{tag}")
        element = Signal(len(into), name=f"element_{tag}")
        begin = push & ~following & Value.cast(bench.anything())
        with m.If(begin):
            m.d.sync += [following.eq(1), element.eq(into), ahead.eq(self.inside - pop)]
        with m.Elif(following & pop):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += following.eq(0)
        self.due = following & (ahead == 0) & offered
        bench.claim(
            f"{prefix}nothing comes out that did not go in, or twice", ~(offered & (self.inside == 0))
        )
        bench.claim(f"{prefix}what comes out is what went in, in order", ~self.due | (out == element))
        bench.claim(f"{prefix}no more inside than fits", self.inside <= greatest)
        bench.goal(f"{prefix}an element that is followed leaves", following & (ahead == 0) & pop)


def _width(shape: Any) -> int:
    if isinstance(shape, ShapeCastable | data.Layout):
        return len(Value.cast(Signal(shape)))
    return len(Signal(shape))


def connected(bench: Bench, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Drive each first one from the second."""
    bench.m.d.comb += [Value.cast(a).eq(Value.cast(b)) for a, b in pairs]
