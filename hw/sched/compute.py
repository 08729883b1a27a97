"""The compute unit: walks a tile, feeds the array, and hands each capture to the quant pipeline."""

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..delay import delay, held_delay, pulses
from ..emission import never_elaborated
from ..memory.scratchpad import Scratchpad
from ..pe.contract import Order
from ..quant.pipeline import DrainJob, QuantPipeline
from .isa import Opcode
from .widths import narrow_layout

__all__ = ["ComputeUnit"]


class ComputeUnit(wiring.Component):
    """Executes COMPUTE instructions: nested loops, one beat per cycle.

    ::

        for m in range(row_groups):                  # activation row += activation_stride
            for n in range(col_groups):              # weights run on; activations start the row again
                for step, b in schedule:             # the unit's: steps inside beats, or beats inside steps
                    beat(activations[row + step], weights[w], control[b]); w += 1
                    where an output's last beat is: capture, results to output + m*output_group + ...

    What the beats of a step are, their control and their order is the unit's own
    (:class:`~bitwright.hw.pe.contract.DotProduct`); a unit of one beat per step has no loop over them.

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
    beat, last, control, activation_index : to the array, aligned with the operands; no control where the unit
        needs none, an index where it has a feeder
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
        members = {
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
        if config.unit.control:
            members["control"] = Out(config.unit.control_layout)
        self.indexed = never_elaborated(config.unit.feeder()) is not None
        if self.indexed:
            members["activation_index"] = Out(config.activation_index_bits)
        super().__init__(members)

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
        if not config.unit.resumes(config.precision):
            illegal |= ~instruction.drain
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
        beats = config.beats
        beat = Signal(range(len(beats)))
        beat_last = beat == len(beats) - 1 if len(beats) > 1 else Const(1)
        ends = config.unit.ends(config.precision)
        output_ends = Const(sum(end << index for index, end in enumerate(ends)), len(ends)).bit_select(
            beat, 1
        )
        group_last = k_last & beat_last
        last = Signal()  # of a dot product
        issue = Signal()
        hand_over = Signal()
        can_issue = ~last | (drain_left == 0)
        m.d.comb += [
            last.eq(k_last & (output_ends if len(beats) > 1 else 1)),
            issue.eq(running & can_issue),
            hand_over.eq(issue & last),
            finish.eq(issue & group_last & n_last & row_last),
            self.beating.eq(issue),
            self.draining.eq(running & ~can_issue),
            self.read_enable.eq(issue),
            self.activation_address.eq(activation),
            self.weight_address.eq(weight),
        ]
        next_activation_row = activation_row + instruction.activation_stride
        next_output_row = output_row + instruction.output_group
        beats_outside = config.unit.order is Order.BEATS_OUTSIDE
        with m.If(issue):
            m.d.sync += weight.eq(weight + 1)
            if len(beats) > 1:
                with m.If(k_last if beats_outside else 1):
                    m.d.sync += beat.eq(Mux(beat_last, 0, beat + 1))
            with m.If(1 if beats_outside else beat_last):
                m.d.sync += [k.eq(k - 1), k_last.eq(k == 2), activation.eq(activation + 1)]
                with m.If(k_last):
                    m.d.sync += [
                        k.eq(instruction.steps),
                        k_last.eq(instruction.steps == 1),
                        activation.eq(activation_row),
                    ]
            with m.If(last):
                m.d.sync += [
                    channel.eq(channel + config.granules_per_drain),
                    output.eq(output + config.granules_per_drain),
                ]
            with m.If(group_last):
                m.d.sync += [n.eq(n - 1), n_last.eq(n == 2)]
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
        if config.unit.control:
            m.d.comb += Value.cast(self.control).eq(
                delay(m, self._control(m, beat, issue, k_last), wait, "control")
            )
        if self.indexed:
            index = Array(Const(each.activation, config.activation_index_bits) for each in beats)[beat]
            m.d.comb += self.activation_index.eq(delay(m, index, wait, "activation_index"))
        to_job = wait + self.array_latency - QuantPipeline.LEAD
        jobs = pulses(m, hand_over, to_job, "job_valid")
        m.d.comb += [
            self.beat.eq(delay(m, issue, wait, "beat", reset_less=False)),
            self.last.eq(delay(m, hand_over & instruction.drain, wait, "last", reset_less=False)),
            self.job_valid.eq(jobs[to_job]),
            self.job.eq(held_delay(m, job.as_value(), to_job, "job", pulses=jobs, every=config.drain_cycles)),
        ]
        return m

    def _control(self, m: Module, beat: Signal, issue: Signal, k_last: Signal) -> Value:
        """Control of the beat that is being issued."""
        unit = self.config.unit
        words = [
            [unit.encoded_control(each, shift=shift and each.shift) for each in self.config.beats]
            for shift in (False, True)
        ]
        control = Array(Const(word, unit.control_layout.size) for word in words[1])[beat]
        if unit.order is Order.BEATS_OUTSIDE and words[0] != words[1]:
            # Only the first step of a beat shifts.
            first = Signal(init=1)
            with m.If(issue):
                m.d.sync += first.eq(k_last)
            plain = Array(Const(word, unit.control_layout.size) for word in words[0])[beat]
            return Mux(first, control, plain)
        return control
