"""Whether a mutant of a circuit can be told from the circuit: a proof, or inputs that show it.

Circuit and mutants are one and-inverter graph with an input that selects the mutant (Yosys' ``mutate -ctrl``,
``write_aiger``). Selected as 0 it is the circuit. Both copies get the same inputs; what they share is built
once, so that a mutant differs only where its mutation has an effect.

**Proof** by induction over ``depth`` cycles. The invariant is that some registers are equal in both: at first
those that no legal inputs can tell apart within ``depth`` cycles from power-on, then, as in Houdini, those
are taken away that are not equal in a cycle although all of the invariant held in the ``depth`` cycles
before. If the observed outputs are equal in that cycle too, they are in every cycle: the proof is of all
legal inputs, for as long as one likes.

A **difference** is found from power-on, and is a sequence of legal inputs.

Source: Flanagan, Leino: "Houdini, an annotation assistant for ESC/Java", FME 2001; Sheeran, Singh, Stålmarck:
"Checking safety properties using induction and a SAT-solver", FMCAD 2000.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitwright.hw.errors import BitwrightError

__all__ = ["Aiger", "Condition", "Difference", "Equivalent", "Machine", "Outcome", "Undecided"]

_BUDGET = 100_000
"""Conflicts after which the solver gives up one question."""

Bit = tuple[str, int]
"""A port and the place of a bit in it."""

Clause = Sequence[tuple[Bit, bool]]
"""Inputs of one cycle of which at least one has the value given with it.

A port that the circuit does not have is a choice: free, and the same in all clauses of a cycle. Of a name
that ends in ``'`` it is the choice of the next cycle, so that clauses say which sequences of inputs are
legal."""


@dataclass(frozen=True)
class Condition:
    """When a bit of an output counts.

    Parameters
    ----------
    bits
        It counts where one of these is set, of outputs of the circuit itself, or inputs.
    ago
        So many cycles ago.
    """

    bits: tuple[Bit, ...]
    ago: int = 0


@dataclass(frozen=True)
class Equivalent:
    """No sequence of legal inputs tells them apart.

    Parameters
    ----------
    registers
        How many registers are equal in both in every cycle; all, unless the mutant changes what nobody sees.
    """

    registers: int


@dataclass(frozen=True)
class Difference:
    """Inputs that tell them apart, cycle by cycle from power-on.

    Parameters
    ----------
    cycles
        Value of each port; in the last one, outputs that count differ.
    """

    cycles: tuple[Mapping[str, int], ...]


@dataclass(frozen=True)
class Undecided:
    """Neither was found; why.

    Parameters
    ----------
    reason
        In words.
    """

    reason: str


Outcome = Equivalent | Difference | Undecided


@dataclass(frozen=True)
class Aiger:
    """An and-inverter graph with registers that are 0 at power-on, as :meth:`read` reads it.

    Parameters
    ----------
    inputs, outputs
        Ports' bits, in order. An input without a name, None, is the value at power-on of a register that has
        none stated: 0, as in simulators of two values and in FPGAs.
    registers
        The next value of each, as a literal.
    values
        Literal of each output.
    variables
        Variables of the inputs, then of the registers.
    ands
        Variable and its two literals, in an order in which they can be computed.
    """

    inputs: tuple[Bit | None, ...]
    outputs: tuple[Bit, ...]
    registers: tuple[int, ...]
    values: tuple[int, ...]
    variables: tuple[int, ...]
    ands: tuple[tuple[int, int, int], ...]

    @classmethod
    def read(cls, text: str, names: str) -> "Aiger":
        """From what Yosys' ``write_aiger -ascii -zinit -map`` wrote: the graph, and the map of its names.

        Raises
        ------
        BitwrightError
            It is no such graph.
        """
        lines = text.splitlines()
        header = lines[0].split()
        if header[0] != "aag":
            raise BitwrightError(f"{lines[0]!r}: is not the header of an ASCII AIGER file")
        inputs, latches, outputs, ands = map(int, header[2:6])
        rows = [list(map(int, line.split())) for line in lines[1 : 1 + inputs + latches + outputs + ands]]
        variables = [row[0] >> 1 for row in rows[: inputs + latches]]
        if any(len(row) > 2 and row[2] for row in rows[inputs : inputs + latches]):
            raise BitwrightError("a register is not 0 at power-on; write_aiger has to be called with -zinit")
        named_inputs: list[Bit | None] = [None] * inputs
        named_outputs: list[Bit] = [("", 0)] * outputs
        for line in names.splitlines():
            kind, *rest = line.split()
            if kind == "input":
                named_inputs[int(rest[0])] = (rest[2].lstrip("\\"), int(rest[1]))
            elif kind == "output":
                named_outputs[int(rest[0])] = (rest[2].lstrip("\\"), int(rest[1]))
        return cls(
            inputs=tuple(named_inputs),
            outputs=tuple(named_outputs),
            registers=tuple(row[1] for row in rows[inputs : inputs + latches]),
            values=tuple(row[0] for row in rows[inputs + latches : inputs + latches + outputs]),
            variables=tuple(variables),
            ands=tuple(
                _ordered({row[0] >> 1: (row[1], row[2]) for row in rows[inputs + latches + outputs :]})
            ),
        )


def _ordered(ands: Mapping[int, tuple[int, int]]) -> Iterable[tuple[int, int, int]]:
    """Each gate behind those that it takes its operands from."""
    done: set[int] = set()
    for root in ands:
        stack = [root]
        while stack:
            gate = stack[-1]
            if gate in done or gate not in ands:
                stack.pop()
                continue
            waiting = [lit >> 1 for lit in ands[gate] if lit >> 1 in ands and lit >> 1 not in done]
            if waiting:
                stack += waiting
            else:
                stack.pop()
                done.add(gate)
                yield gate, *ands[gate]


def _number(lit: int) -> int:
    """A literal as solvers have it: from 1 on, negative where it is inverted."""
    return ((lit >> 1) + 1) * (-1 if lit & 1 else 1)


class _Graph:
    """And-gates without duplicates.

    A literal is twice a node's number, plus 1 where it is inverted; 0 is false.
    """

    def __init__(self) -> None:
        self.gates: list[tuple[int, int] | None] = [None]
        self._known: dict[tuple[int, int], int] = {}

    def variable(self) -> int:
        self.gates.append(None)
        return 2 * (len(self.gates) - 1)

    def both(self, a: int, b: int) -> int:
        if a > b:
            a, b = b, a
        if a == 0 or a ^ b == 1:
            return 0
        if a == 1 or a == b:
            return b
        found = self._known.get((a, b))
        if found is None:
            self.gates.append((a, b))
            found = self._known[a, b] = 2 * (len(self.gates) - 1)
        return found

    def either(self, a: int, b: int) -> int:
        return self.both(a ^ 1, b ^ 1) ^ 1

    def differ(self, a: int, b: int) -> int:
        if a == b:
            return 0
        if a ^ b == 1:
            return 1
        return self.either(self.both(a, b ^ 1), self.both(a ^ 1, b))


@dataclass
class _Step:
    """One cycle: literals of the inputs, registers and outputs."""

    inputs: dict[Bit, int] = field(default_factory=dict)
    outputs: dict[Bit, int] = field(default_factory=dict)
    registers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Circuit:
    """Gates in their order, and the literals of the next registers and of the outputs."""

    gates: list[tuple[int, int, int]]
    registers: list[int]
    outputs: list[int]


class Machine:
    """A circuit and its mutants.

    Parameters
    ----------
    aiger
        Both in one.
    selector
        Input that selects the mutant.
    observed
        When each bit of an output counts; those that are left out always do.
    legal, initial
        What holds in every cycle; and in the first one from power-on.
    depth
        Cycles of the induction; as many as a value takes through the circuit, if not more.
    reach
        So many times as far a difference is looked for where there is no proof.

    Raises
    ------
    BitwrightError
        The solver is not installed.
    """

    def __init__(
        self,
        aiger: Aiger,
        *,
        selector: str,
        observed: Mapping[Bit, Condition],
        legal: Sequence[Clause] = (),
        initial: Sequence[Clause] = (),
        depth: int,
        reach: int = 2,
    ):
        try:
            from pysat.solvers import Glucose4
        except ImportError:
            raise BitwrightError("the solver is not installed: pip install python-sat") from None
        self.aiger = aiger
        self.selector = selector
        self.observed = observed
        self.legal = legal
        self.initial = initial
        self.depth = depth
        self._solver: Any = Glucose4
        self._graph = _Graph()
        self._rules: dict[int, list[list[int]]] = {}
        self._model: list[int] = []
        circuit = self._selected(0)
        count = len(self.aiger.registers)
        self._free, self._behind = self._play(
            circuit, [self._graph.variable() for _ in range(count)], depth + 1, power_on=False
        )
        self._reset, _ = self._play(circuit, [0] * count, reach * depth + 1, power_on=True)

    # Building

    def _selected(self, number: int) -> _Circuit:
        """The graph with the selector's bits as constants; what that decides is left out."""
        aiger = self.aiger
        folded: dict[int, int] = {0: 0}
        for variable, bit in zip(aiger.variables, aiger.inputs, strict=False):
            if bit is None:
                folded[variable] = 0
            elif bit[0] == self.selector:
                folded[variable] = number >> bit[1] & 1

        def literal(lit: int) -> int:
            known = folded.get(lit >> 1)
            return lit if known is None else known ^ (lit & 1)

        gates = []
        for gate, a, b in aiger.ands:
            a, b = sorted((literal(a), literal(b)))
            if a == 0 or a ^ b == 1:
                folded[gate] = 0
            elif a == 1 or a == b:
                folded[gate] = b
            else:
                gates.append((gate, a, b))
        registers, outputs = ([literal(lit) for lit in part] for part in (aiger.registers, aiger.values))
        needed = {lit >> 1 for lit in (*registers, *outputs)}
        kept = []
        for gate, a, b in reversed(gates):
            if gate in needed:
                needed |= {a >> 1, b >> 1}
                kept.append((gate, a, b))
        return _Circuit(kept[::-1], registers, outputs)

    def _advance(
        self, circuit: _Circuit, inputs: Iterable[int], registers: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Outputs of a cycle and the registers of the next."""
        values = {0: 0}
        for variable, lit in zip(self.aiger.variables, (*inputs, *registers), strict=True):
            values[variable] = lit
        both = self._graph.both
        for gate, a, b in circuit.gates:
            values[gate] = both(values[a >> 1] ^ (a & 1), values[b >> 1] ^ (b & 1))
        outputs, following = (
            [values[lit >> 1] ^ (lit & 1) for lit in part] for part in (circuit.outputs, circuit.registers)
        )
        return outputs, following

    def _play(
        self, circuit: _Circuit, registers: list[int], cycles: int, *, power_on: bool
    ) -> tuple[list[_Step], list[int]]:
        """The circuit itself for so many cycles, and its registers behind the last."""
        steps = []
        for _ in range(cycles):
            step = _Step(registers=registers)
            step.inputs = {
                bit or ("", index): self._graph.variable() for index, bit in enumerate(self.aiger.inputs)
            }
            outputs, registers = self._advance(circuit, step.inputs.values(), registers)
            step.outputs = dict(zip(self.aiger.outputs, outputs, strict=True))
            steps.append(step)
        choices: list[dict[Bit, int]] = [{} for _ in range(cycles + 1)]
        for now, step in enumerate(steps):
            for clause in (*self.legal, *(self.initial if power_on and not now else ())):
                literals = []
                for (port, place), value in clause:
                    later = port.endswith("'")
                    bit = (port.removesuffix("'"), place)
                    lit = None if later else step.inputs.get(bit)
                    if lit is None:
                        known = choices[now + later]
                        lit = known[bit] if bit in known else known.setdefault(bit, self._graph.variable())
                    literals.append(lit ^ (not value))
                for lit in literals:
                    self._rules.setdefault(lit >> 1, []).append(literals)
        return steps, registers

    def _any(self, literals: Sequence[int]) -> set[int] | str | None:
        """Which of the literals a model sets, None where there is no model, or why it is not known.

        The solver gets what the literals depend on, and nothing else.
        """
        candidates = [lit for lit in literals if lit]
        if not candidates:
            return None
        gates, rules = self._graph.gates, self._rules
        with self._solver() as solver:
            solver.add_clause([-1])  # variable 1 is node 0, false
            solver.add_clause([_number(lit) for lit in candidates])
            known: set[int] = set()
            stack = [lit >> 1 for lit in candidates]
            while stack:
                node = stack.pop()
                if node in known:
                    continue
                known.add(node)
                gate = gates[node]
                if gate is not None:
                    a, b = map(_number, gate)
                    solver.add_clause([-node - 1, a])
                    solver.add_clause([-node - 1, b])
                    solver.add_clause([node + 1, -a, -b])
                    stack += [part >> 1 for part in gate]
                for rule in rules.get(node, ()):
                    if rule[0] >> 1 == node or rule[0] >> 1 not in known:
                        solver.add_clause([_number(lit) for lit in rule])
                    stack += [lit >> 1 for lit in rule]
            solver.conf_budget(_BUDGET)
            found = solver.solve_limited()
            if found is None:
                return f"the solver gave up after {_BUDGET} conflicts"
            if not found:
                return None
            self._model = solver.get_model()
        return {index for index, lit in enumerate(literals) if lit and self._value(lit)}

    def _value(self, lit: int) -> bool:
        """A literal's value in the last model."""
        place = lit >> 1
        return (place < len(self._model) and self._model[place] > 0) != bool(lit & 1)

    def _visible(self, steps: Sequence[_Step], now: int, outputs: Sequence[int]) -> list[int]:
        """For each output whether it counts, and differs from the circuit's."""
        graph = self._graph
        found = []
        for bit, lit in zip(self.aiger.outputs, outputs, strict=True):
            differs = graph.differ(steps[now].outputs[bit], lit)
            condition = self.observed.get(bit)
            if differs and condition is not None:
                counts = 0
                if now >= condition.ago:
                    then = steps[now - condition.ago]
                    for which in condition.bits:
                        counts = graph.either(counts, then.outputs.get(which, then.inputs.get(which, 0)))
                differs = graph.both(differs, counts)
            found.append(differs)
        return found

    # Asking

    def compare(self, number: int) -> Outcome:
        """Whether the mutant of that number can be told from the circuit.

        Parameters
        ----------
        number
            What the selector selects it by.
        """
        mutant = self._selected(number)
        graph = self._graph
        count, width = len(self.aiger.registers), len(self.aiger.outputs)
        registers = [0] * count
        differs: list[int] = []  # for each register, cycle by cycle, whether it is not the circuit's
        visible: list[int] = []  # for each output of the cycles not asked about yet
        first, reason = 0, ""
        for now, step in enumerate(self._reset):
            if now <= self.depth:
                differs += map(graph.differ, step.registers, registers)
            outputs, registers = self._advance(mutant, step.inputs.values(), registers)
            visible += self._visible(self._reset, now, outputs)
            if now not in (self.depth, len(self._reset) - 1):
                continue
            seen = self._any(visible)
            if isinstance(seen, str):
                return Undecided(f"{reason}within {now + 1} cycles from power-on {seen}")
            if seen:
                cycle = first + min(seen) // width
                return Difference(tuple(self._inputs(self._reset[: cycle + 1])))
            if now == self.depth:
                # What differs as a function may be equal for all legal inputs.
                equal = set(range(count))
                while shown := self._any(
                    [lit if place % count in equal else 0 for place, lit in enumerate(differs)]
                ):
                    if isinstance(shown, str):
                        # To leave registers out of the invariant makes it weaker, not wrong.
                        equal -= {place % count for place, lit in enumerate(differs) if lit}
                        break
                    equal -= {place % count for place in shown}
                proof = self._induction(mutant, equal)
                if not isinstance(proof, str):
                    return Equivalent(proof)
                reason = f"{proof}; "
            visible, first = [], now + 1
        return Undecided(f"{reason}no difference within {len(self._reset)} cycles from power-on")

    def _induction(self, mutant: _Circuit, candidates: set[int]) -> int | str:
        """How many registers are equal for ever, which makes the outputs equal; or why that is not proved."""
        graph = self._graph
        equal = set(candidates)
        while True:
            outputs, registers = self._assuming(mutant, equal)
            differing = self._any(
                [
                    graph.differ(self._behind[index], lit) if index in equal else 0
                    for index, lit in enumerate(registers)
                ]
            )
            if isinstance(differing, str):
                return f"in the induction {differing}"
            if not differing:
                break
            equal -= differing
        seen = self._any(self._visible(self._free, self.depth, outputs))
        if isinstance(seen, str):
            return f"at the end of the induction {seen}"
        if seen:
            shown = ", ".join("{}[{}]".format(*self.aiger.outputs[index]) for index in sorted(seen)[:4])
            return f"{len(equal)} of {len(registers)} registers are always equal, too few for {shown}"
        return len(equal)

    def _assuming(self, mutant: _Circuit, equal: set[int]) -> tuple[list[int], list[int]]:
        """The mutant's outputs in cycle ``depth`` and its registers behind, if some were equal until then."""
        following = [self._graph.variable() for _ in self.aiger.registers]
        outputs: list[int] = []
        for step in self._free:
            registers = [
                step.registers[index] if index in equal else lit for index, lit in enumerate(following)
            ]
            outputs, following = self._advance(mutant, step.inputs.values(), registers)
        return outputs, following

    def _inputs(self, steps: Sequence[_Step]) -> Iterable[Mapping[str, int]]:
        """Inputs by cycle, of the last model."""
        for step in steps:
            values: dict[str, int] = {}
            for (port, place), lit in step.inputs.items():
                if port and port != self.selector:
                    values[port] = values.get(port, 0) | int(self._value(lit)) << place
            yield values
