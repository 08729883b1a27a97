"""Output-stationary array: every unit keeps the sum of one output element until it is complete."""

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..delay import delay
from ..emission import share

__all__ = ["OutputStationaryArray"]


class OutputStationaryArray(wiring.Component):
    """``rows`` x ``cols`` dot-product units and the chain that their results leave by.

    ::

                      weights[0]   weights[1]   ...  (one word: each column its own part)
                          │            │
        activations[0] ── unit 0,0 ── unit 0,1 ── ...       a row shares its activations,
        activations[1] ── unit 1,0 ── unit 1,1 ── ...       a column its weights
                          │            │
        drain:  result 0,0 ◄ 0,1 ◄ … ◄ 1,0 ◄ 1,1 ◄ …        shifts by `requantisers` results

    When a dot product is complete all results are taken into the drain registers together
    (``captured``), row by row, first column lowest; each ``shift`` moves them down by as many as there
    are requantisers. The sequencer keeps two captures at least
    :attr:`~bitwright.hw.config.EngineConfig.drain_cycles` apart.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    activations, weights : operands of one beat, straight from registers
    activation_index : which of a step's activation words the beat takes; there where the unit has a feeder
    control : the beat's control (:attr:`~bitwright.hw.pe.contract.DotProduct.control`); not there where the
        unit needs none
    valid, last : the beat exists; it is the last of its dot product, set only with ``valid``
    captured : the drain registers hold new results from this cycle on
    shift : move the results down
    results : the lowest ``requantisers`` results
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.feeders = [config.unit.feeder() for _ in range(config.rows)]
        feed = self.feeders[0].latency if self.feeders[0] else 0
        self.latency = feed + config.unit.latency + 1
        """Cycles from a last beat to ``captured``."""
        members = {
            "activations": In(config.activation_word_bits).array(config.rows),
            "weights": In(config.weight_word_bits),
            "valid": In(1),
            "last": In(1),
            "captured": Out(1),
            "shift": In(1),
            "results": Out(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
        }
        if config.unit.control:
            members["control"] = In(config.unit.control_layout)
        if self.feeders[0]:
            members["activation_index"] = In(config.activation_index_bits)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        activations: list[Value] = [*self.activations]
        weights, valid, last = self.weights, self.valid, self.last
        control: Value | None = Value.cast(self.control) if config.unit.control else None
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
        units = []
        for row in range(config.rows):
            for col in range(config.cols):
                unit = config.unit.unit()
                m.submodules[f"unit_{row}_{col}"] = share(platform, "dot_product_unit", unit)
                units.append(unit)
                m.d.comb += [
                    unit.a.eq(activations[row]),
                    unit.w.eq(weights.word_select(col, config.unit.weight_word_bits)),
                    unit.valid.eq(valid),
                    unit.last.eq(last),
                ]
                if control is not None:
                    m.d.comb += Value.cast(unit.control).eq(control)

        capture = units[0].o_valid
        m.d.sync += self.captured.eq(capture)
        drain = [
            Signal(signed(config.accumulator_bits), name=f"drain_{index}", reset_less=True)
            for index in range(len(units))
        ]
        for index, (register, unit) in enumerate(zip(drain, units, strict=True)):
            with m.If(capture):
                m.d.sync += register.eq(unit.o)
            if index + config.requantisers < len(units):
                with m.Elif(self.shift):
                    m.d.sync += register.eq(drain[index + config.requantisers])
        m.d.comb += [self.results[index].eq(drain[index]) for index in range(config.requantisers)]
        return m
