"""Output-stationary array: every unit keeps the sum of one output element until it is complete."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..emission import share
from ..pe.parallel import ParallelSpec, ParallelUnit

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
    valid, last : the beat exists; it is the last of its dot product
    captured : the drain registers hold new results from this cycle on
    shift : move the results down
    results : the lowest ``requantisers`` results
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.spec = ParallelSpec.of(config)
        self.latency = self.spec.latency + 1
        """Cycles from a last beat to ``captured``."""
        super().__init__(
            {
                "activations": In(config.activation_word_bits).array(config.rows),
                "weights": In(config.weight_word_bits),
                "valid": In(1),
                "last": In(1),
                "captured": Out(1),
                "shift": In(1),
                "results": Out(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        column_bits = config.lanes * config.weight_bits
        units = []
        for row in range(config.rows):
            for col in range(config.cols):
                unit = ParallelUnit(self.spec)
                m.submodules[f"unit_{row}_{col}"] = share(platform, "dot_product_unit", unit)
                units.append(unit)
                m.d.comb += [
                    unit.a.eq(self.activations[row]),
                    unit.w.eq(self.weights.word_select(col, column_bits)),
                    unit.valid.eq(self.valid),
                    unit.last.eq(self.last),
                ]

        capture = units[0].o_valid
        m.d.sync += self.captured.eq(capture)
        drain = [
            Signal(signed(config.accumulator_bits), name=f"drain_{index}", reset_less=True)
            for index in range(len(units))
        ]
        for index, (register, unit) in enumerate(zip(drain, units, strict=True)):
            with m.If(capture):
                m.d.sync += register.eq(unit.o.sum)
            if index + config.requantisers < len(units):
                with m.Elif(self.shift):
                    m.d.sync += register.eq(drain[index + config.requantisers])
        m.d.comb += [self.results[index].eq(drain[index]) for index in range(config.requantisers)]
        return m
