"""The compute unit: walks a tile, feeds the array, and hands each capture to the quant pipeline."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..delay import delay, held_delay, pulses
from ..memory.scratchpad import Scratchpad
from ..quant.pipeline import DrainJob, QuantPipeline
from .isa import Opcode
from .widths import narrow_layout

__all__ = ["ComputeUnit"]


class ComputeUnit(wiring.Component):
    """Executes COMPUTE instructions: three nested loops, one beat per cycle.

    ::

        for m in range(row_groups):                  # activation row += activation_stride
            for n in range(col_groups):              # weights run on; activations start the row again
                for k in range(steps):
                    beat(activations[row + k], weights[w]); w += 1
                capture: results to output + m*output_group + n*granules_per_group

        state   IDLE                    RUN
        does    waits for instruction   a beat per cycle; stands still before a last beat
                and tokens              while an earlier capture is being drained

    A beat's operands reach the array :attr:`~bitwright.hw.memory.scratchpad.Scratchpad.LATENCY` cycles after
    its addresses; the capture's job travels beside it and arrives
    :attr:`~bitwright.hw.quant.pipeline.QuantPipeline.LEAD` cycles before the array's ``captured``.

    Parameters
    ----------
    config
        The engine's configuration.
    array_latency
        Cycles from a last beat at the array to ``captured``.

    Members
    -------
    i : decoded instructions
    wait_for, waited, take : tokens: which the instruction needs, whether they are there, and that it starts
    activation_address, weight_address, read_enable : read ports of the scratchpads
    beat, last : to the array, aligned with the operands
    job, job_valid : to the quant pipeline
    ended : an instruction's last result has been written (from the quant pipeline)
    idle : nothing is under way
    illegal : the instruction cannot be executed
    beating, waiting, draining, starving : for the event counters
    """

    def __init__(self, config: EngineConfig, *, array_latency: int):
        self.config = config
        self.array_latency = array_latency
        self.layout = narrow_layout(config, Opcode.COMPUTE)
        self.job_layout = DrainJob(config)
        self.activation_address_bits = (config.activation_depth - 1).bit_length()
        self.weight_address_bits = (config.weight_depth - 1).bit_length()
        super().__init__(
            {
                "i": In(stream.Signature(self.layout)),
                "wait_for": Out(3),
                "waited": In(1),
                "take": Out(1),
                "activation_address": Out(self.activation_address_bits),
                "weight_address": Out(self.weight_address_bits),
                "read_enable": Out(1),
                "beat": Out(1),
                "last": Out(1),
                "job": Out(self.job_layout),
                "job_valid": Out(1),
                "ended": In(1),
                "idle": Out(1),
                "illegal": Out(1),
                "beating": Out(1),
                "waiting": Out(1),
                "draining": Out(1),
                "starving": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        instruction = self.i.payload

        k = Signal.like(instruction.steps)
        n = Signal.like(instruction.col_groups)
        row = Signal.like(instruction.row_groups)
        k_last = Signal()
        n_last = Signal()
        row_last = Signal()
        activation = Signal(self.activation_address_bits)
        activation_row = Signal(self.activation_address_bits)
        weight = Signal(self.weight_address_bits)
        job_bits = self.job_layout
        channel = Signal(job_bits["channel"].width)
        output = Signal(job_bits["output"].width)
        output_row = Signal(job_bits["output"].width)

        running = Signal()
        started = Signal(4)  # instructions whose last result has not been written
        drain_left = Signal(range(max(2, config.drain_cycles)))

        illegal = (
            (instruction.steps == 0)
            | (instruction.row_groups == 0)
            | (instruction.col_groups == 0)
            | (~instruction.drain & ((instruction.row_groups != 1) | (instruction.col_groups != 1)))
            | (instruction.wait[1] | instruction.post[1])
        )
        checked = Signal()  # the instruction has been looked at for a cycle: its checks are registered
        bad = Signal()
        start = Signal()
        finish = Signal()
        m.d.sync += [checked.eq(self.i.valid & ~running & ~start), bad.eq(illegal)]
        m.d.comb += [
            self.wait_for.eq(instruction.wait),
            self.illegal.eq(checked & bad),
            start.eq(checked & ~bad & self.waited & ~started.all()),
            self.take.eq(start),
            self.i.ready.eq(finish),
            self.idle.eq(~running & (started == 0)),
            self.waiting.eq(checked & ~self.waited),
            self.starving.eq(~self.i.valid & ~running),
        ]

        # The loops. An "is last" flag is kept beside each counter, so that no wide compare is in the path.
        can_issue = ~k_last | (drain_left == 0)
        issue = Signal()
        m.d.comb += [
            issue.eq(running & can_issue),
            finish.eq(issue & k_last & n_last & row_last),
            self.beating.eq(issue),
            self.draining.eq(running & ~can_issue),
            self.read_enable.eq(issue),
            self.activation_address.eq(activation),
            self.weight_address.eq(weight),
        ]
        next_activation_row = activation_row + instruction.activation_stride
        next_output_row = output_row + instruction.output_group
        with m.If(issue):
            m.d.sync += [
                k.eq(k - 1),
                k_last.eq(k == 2),
                activation.eq(activation + 1),
                weight.eq(weight + 1),
            ]
            with m.If(k_last):
                m.d.sync += [
                    k.eq(instruction.steps),
                    k_last.eq(instruction.steps == 1),
                    activation.eq(activation_row),
                    n.eq(n - 1),
                    n_last.eq(n == 2),
                    channel.eq(channel + config.granules_per_group),
                    output.eq(output + config.granules_per_group),
                ]
                with m.If(n_last):
                    m.d.sync += [
                        n.eq(instruction.col_groups),
                        n_last.eq(instruction.col_groups == 1),
                        row.eq(row - 1),
                        row_last.eq(row == 2),
                        activation.eq(next_activation_row),
                        activation_row.eq(next_activation_row),
                        weight.eq(instruction.weights),
                        channel.eq(instruction.channels),
                        output.eq(next_output_row),
                        output_row.eq(next_output_row),
                    ]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                k.eq(instruction.steps),
                k_last.eq(instruction.steps == 1),
                n.eq(instruction.col_groups),
                n_last.eq(instruction.col_groups == 1),
                row.eq(instruction.row_groups),
                row_last.eq(instruction.row_groups == 1),
                activation.eq(instruction.activations),
                activation_row.eq(instruction.activations),
                weight.eq(instruction.weights),
                channel.eq(instruction.channels),
                output.eq(instruction.output),
                output_row.eq(instruction.output),
            ]
        with m.If(finish):
            m.d.sync += running.eq(0)

        with m.If(start & ~self.ended):
            m.d.sync += started.eq(started + 1)
        with m.Elif(self.ended & ~start):
            m.d.sync += started.eq(started - 1)

        # A last beat may follow another only when the results of that one will have left the array.
        hand_over = Signal()
        m.d.comb += hand_over.eq(issue & k_last)
        if config.drain_cycles > 1:
            with m.If(hand_over):
                m.d.sync += drain_left.eq(config.drain_cycles - 1)
            with m.Elif(drain_left != 0):
                m.d.sync += drain_left.eq(drain_left - 1)

        job = Signal(self.job_layout)
        m.d.comb += [
            job.output.eq(output),
            job.row.eq(instruction.output_row),
            job.channel.eq(channel),
            job.empty.eq(~instruction.drain),
            job.end.eq(finish),
            job.post.eq(Mux(finish, instruction.post, 0)),
        ]
        wait = Scratchpad.LATENCY
        to_job = wait + self.array_latency - QuantPipeline.LEAD
        jobs = pulses(m, hand_over, to_job, "job_valid")
        m.d.comb += [
            self.beat.eq(delay(m, issue, wait, "beat", reset_less=False)),
            self.last.eq(delay(m, hand_over & instruction.drain, wait, "last", reset_less=False)),
            self.job_valid.eq(jobs[to_job]),
            self.job.eq(held_delay(m, job.as_value(), to_job, "job", pulses=jobs, every=config.drain_cycles)),
        ]
        return m
