"""Output-stationary array: every unit keeps the sum of one output element until it is complete."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..delay import delay
from ..emission import share
from ..pe.contract import DotProduct

__all__ = ["OutputStationaryArray"]


class OutputStationaryArray(wiring.Component):
    """``rows`` x ``cols`` dot-product units and the chain that their results leave by.

    ::

                      weights[0]   weights[1]   ...  (one word: each column its own part)
                          │            │
        activations[0] ── unit 0,0 ── unit 0,1 ── ...       a row shares its activations,
        activations[1] ── unit 1,0 ── unit 1,1 ── ...       a column its weights
                          │            │
        drain:  result 0,0 ◄ 0,1 ◄ … ◄ 1,0 ◄ 1,1 ◄ …        shifts by `step` results

    When a dot product is complete all results are taken into the drain registers together
    (``captured``), row by row, first column lowest; each ``shift`` moves them down by ``step``. Who feeds
    the array keeps two captures as far apart as it takes to shift all results out.

    With `chained` columns there is a register for each lane between a row's word and its columns, column c
    behind register c modulo the lanes::

        otherwise   register[c] <- word                                     a cycle before the weights
        chain       register[c] <- register[c] without its first lane, lane c of the word

    So in a chain a column has, in its lanes, the last taps of a channel of its own: a depthwise convolution.

    Parameters
    ----------
    spec
        The units.
    rows, cols
        How many, at least one.
    step
        Results that leave at a time; divides ``cols``.
    chained
        Lanes of such registers, which divide ``cols``, of a single row; 0 for none.

    Members
    -------
    activations, weights : operands of one beat, straight from registers; with `chained`, activations come a
        cycle before weights and everything else
    fetched, chain : activations are there; that they are a chain's. There with `chained`
    activation_index : which of a step's activation words the beat takes; there where the unit has a feeder
    control : the beat's control (:attr:`~bitwright.hw.pe.contract.DotProduct.control`); not there where the
        unit needs none
    valid, last : the beat exists; it is the last of its dot product, set only with ``valid``
    captured : the drain registers hold new results from this cycle on
    shift : move the results down
    results : the lowest ``step`` results

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    def __init__(self, spec: DotProduct, rows: int, cols: int, *, step: int = 1, chained: int = 0):
        if rows < 1 or cols < 1:
            raise ValueError(f"rows x cols = {rows} x {cols}: must be at least 1 x 1")
        if step < 1 or cols % step:
            raise ValueError(f"step = {step}: must divide cols = {cols}")
        self.spec = spec
        self.rows = rows
        self.cols = cols
        self.step = step
        self.chained = chained
        self.feeders = [spec.feeder() for _ in range(rows)]
        feeder = self.feeders[0]
        self.latency = (feeder.latency if feeder else 0) + spec.latency + 1
        """Cycles from a last beat to ``captured``."""
        members: dict[str, Any] = {
            "activations": In(len(feeder.i) if feeder else spec.activation_word_bits).array(rows),
            "weights": In(spec.weight_word_bits * cols),
            "valid": In(1),
            "last": In(1),
            "captured": Out(1),
            "shift": In(1),
            "results": Out(data.ArrayLayout(spec.result_shape, step)),
        }
        if chained:
            members |= {"fetched": In(1), "chain": In(1)}
        if spec.control:
            members["control"] = In(spec.control_layout)
        if feeder:
            members["activation_index"] = In(len(feeder.index))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        activations: list[Value] = [*self.activations]
        weights, valid, last = self.weights, self.valid, self.last
        control: Value | None = Value.cast(self.control) if spec.control else None
        for row, feeder in enumerate(self.feeders):
            if feeder is not None:
                m.submodules[f"feeder_{row}"] = share(platform, "activation_feeder", feeder)
                m.d.comb += [feeder.i.eq(activations[row]), feeder.index.eq(self.activation_index)]
                activations[row] = feeder.o
        if self.feeders[0] is not None:
            stages = self.feeders[0].latency
            weights = delay(m, weights, stages, "weights")
            valid = delay(m, valid, stages, "valid", reset_less=False)
            last = delay(m, last, stages, "last", reset_less=False)
            control = control if control is None else delay(m, control, stages, "control")
        columns = [[word] * self.cols for word in activations]
        if self.chained:
            columns = [self._distribute(m, activations[0])]
        units = []
        for row in range(self.rows):
            for col in range(self.cols):
                unit = spec.unit()
                m.submodules[f"unit_{row}_{col}"] = share(platform, "dot_product_unit", unit)
                units.append(unit)
                m.d.comb += [
                    unit.a.eq(columns[row][col]),
                    unit.w.eq(weights.word_select(col, spec.weight_word_bits)),
                    unit.valid.eq(valid),
                    unit.last.eq(last),
                ]
                if control is not None:
                    m.d.comb += Value.cast(unit.control).eq(control)

        capture = units[0].o_valid
        m.d.sync += self.captured.eq(capture)
        drain = [
            Signal(len(Value.cast(unit.o)), name=f"drain_{index}", reset_less=True)
            for index, unit in enumerate(units)
        ]
        for index, (register, unit) in enumerate(zip(drain, units, strict=True)):
            with m.If(capture):
                m.d.sync += register.eq(Value.cast(unit.o))
            if index + self.step < len(units):
                with m.Elif(self.shift):
                    m.d.sync += register.eq(drain[index + self.step])
        m.d.comb += [Value.cast(self.results[index]).eq(drain[index]) for index in range(self.step)]
        return m

    def _distribute(self, m: Module, word: Value) -> list[Value]:
        """For each column its operand: the word, or the last lanes' worth of taps of a channel of its own."""
        width = len(word) // self.chained
        held = [Signal(len(word), name=f"operand_{lane}", reset_less=True) for lane in range(self.chained)]
        for lane, register in enumerate(held):
            with m.If(self.fetched):
                m.d.sync += register.eq(
                    Mux(self.chain, Cat(register[width:], word.word_select(lane, width)), word)
                )
        return [held[col % self.chained] for col in range(self.cols)]
