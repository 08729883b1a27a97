"""The whole accelerator."""

from amaranth.hdl import Cat, ClockDomain, Const, DomainRenamer, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .array.output_stationary import OutputStationaryArray
from .bus.axi4 import ReadPort, WritePort
from .bus.axi4lite import RegisterPort
from .bus.burst import BurstLayout
from .config import EngineConfig
from .memory.feeder import Feeder
from .memory.fifo import BlockFifo
from .memory.load import LoadUnit
from .memory.ram import Ram
from .memory.scratchpad import Scratchpad, geometries
from .memory.store import StoreUnit
from .quant.pipeline import QuantPipeline
from .sched.compute import ComputeUnit
from .sched.counters import EventCounters
from .sched.decode import InstructionDecoder
from .sched.fetch import COUNT_BITS, FetchUnit
from .sched.isa import LAYOUTS, Buffer, Opcode, Unit
from .sched.registers import COUNTERS, ID_VALUE, REGISTERS, Fault
from .sched.tokens import TokenBank
from .sched.widths import narrow_layout, settings_of

__all__ = ["Core", "Engine"]


class Core(wiring.Component):
    """Everything that a fault or a new start returns to its initial state; see :class:`Engine`.

    Members
    -------
    start, program, count : begin the program at word ``program`` of the window
    reads, writes : bursts of fetch and load, and of store
    word, word_valid : words read, for fetch (bit 0) and load (bit 1)
    hold : no word is to come in two cycles
    words : words to write
    acknowledged : no write is under way
    idle : nothing left to do
    illegal, overflow : faults
    progress : something was computed
    events : for the counters, without those that the ports see
    snapshot, counters : the event counters' snapshot
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        burst = stream.Signature(BurstLayout(config.burst_beats, address_bits=config.word_address_bits))
        super().__init__(
            {
                "start": In(1),
                "program": In(config.word_address_bits),
                "count": In(COUNT_BITS),
                "reads": Out(burst).array(2),
                "writes": Out(burst),
                "word": In(config.bus_bits),
                "word_valid": In(2),
                "hold": Out(1),
                "words": Out(stream.Signature(config.bus_bits)),
                "acknowledged": In(1),
                "idle": Out(1),
                "illegal": Out(1),
                "overflow": Out(1),
                "progress": Out(1),
                "events": Out(len(COUNTERS)),
                "snapshot": Out(1),
                "counters": In(stream.Signature(config.bus_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config

        # Instructions
        m.submodules.fetch = fetch = FetchUnit(config)
        m.d.comb += [
            fetch.start.eq(self.start),
            fetch.program.eq(self.program),
            fetch.count.eq(self.count),
            fetch.word.eq(self.word),
            fetch.word_valid.eq(self.word_valid[0]),
        ]
        wiring.connect(m, fetch.request, wiring.flipped(self.reads[0]))
        decoders = []
        queues = []
        for unit in Unit:
            # A decoder takes its words into registers.
            queue = BlockFifo(
                config.bus_bits, config.queue_depth * config.instruction_beats, registered=False
            )
            opcode = Opcode(unit + 1)
            settings = {code: (LAYOUTS[code], narrow_layout(config, code)) for code in settings_of(config)}
            decoder = InstructionDecoder(
                bus_bits=config.bus_bits,
                layout=LAYOUTS[opcode],
                narrow=narrow_layout(config, opcode),
                settings=settings if unit is Unit.COMPUTE else None,
            )
            m.submodules[f"{unit.name.lower()}_queue"] = queue
            m.submodules[f"{unit.name.lower()}_decoder"] = decoder
            wiring.connect(m, fetch.o[unit], queue.i)
            wiring.connect(m, queue.o, decoder.i)
            decoders.append(decoder)
            queues.append(queue)

        # Memories
        shapes = geometries(config)
        m.submodules.weights = weights = Scratchpad(shapes[Buffer.WEIGHTS])
        m.submodules.channels = channels = Scratchpad(shapes[Buffer.CHANNELS])
        m.submodules.activations = activations = Scratchpad(shapes[Buffer.ACTIVATIONS])
        patches = [Scratchpad(Feeder.patch_geometry(config)) for _ in range(config.rows)]
        for index, patch in enumerate(patches):
            m.submodules[f"patch_{index}"] = patch
        m.submodules.output = output = Ram(
            width=config.bus_bits, depth=config.output_depth, granule=config.granule_bits
        )

        # Units
        m.submodules.array = array = OutputStationaryArray(
            config.unit, config.rows, config.cols, step=config.requantisers, chained=config.chained
        )
        m.submodules.load = load = LoadUnit(config)
        m.submodules.compute = compute = ComputeUnit(config, array_latency=array.latency)
        m.submodules.quant = quant = QuantPipeline(config)
        m.submodules.store = store = StoreUnit(config)
        parts: list[wiring.Component] = [load, compute, store]  # by Unit
        for decoder, part in zip(decoders, parts, strict=True):
            wiring.connect(m, decoder.o, part.i)

        # Load
        wiring.connect(m, load.request, wiring.flipped(self.reads[1]))
        m.d.comb += [load.word.eq(self.word), load.word_valid.eq(self.word_valid[1])]

        def write(pad: Scratchpad, *port: Value) -> list[object]:
            inputs = (pad.write_enable, pad.write_row, pad.write_bank, pad.write_data)
            return [each.eq(value) for each, value in zip(inputs, port, strict=True)]

        place = (load.write_row, load.write_bank, load.write_data)
        m.d.comb += [
            *write(weights, load.write_weights, *place),
            *write(channels, load.write_channels, *place),
        ]
        if config.forwards:
            # What has come over the bus cannot wait; words of the store unit can, until nothing comes. A
            # register says early in a cycle which it is.
            loads = Signal()
            late = [Signal.like(value, reset_less=True) for value in place]
            m.d.sync += [
                loads.eq(load.write_activations),
                *(register.eq(value) for register, value in zip(late, place, strict=True)),
                self.hold.eq(store.forward & loads),
            ]
            m.d.comb += store.forward_ready.eq(~loads)
            forwarded = (store.forward, store.forward_row, store.forward_bank, store.words.payload)
            with m.If(loads):
                m.d.comb += write(activations, loads, *late)
            with m.Else():
                m.d.comb += write(activations, *forwarded)
        else:
            m.d.comb += write(activations, load.write_activations, *place)
        if Buffer.TABLES in shapes:
            m.d.comb += [
                quant.table_enable.eq(load.write_tables),
                quant.table_row.eq(load.write_row),
                quant.table_data.eq(load.write_data),
            ]

        # Feed
        m.submodules.feeder = feeder = Feeder(config)
        tile = decoders[Unit.COMPUTE]
        m.d.comb += [
            feeder.start.eq(compute.feed),
            feeder.base.eq(tile.o.payload.activations),
            feeder.row_groups.eq(tile.o.payload.row_groups),
            feeder.precision.eq(tile.o.payload.precision),
            feeder.geometry.eq(tile.geometry),
            feeder.release.eq(compute.release),
            feeder.read_data.eq(activations.read_data),
            activations.read_enable.eq(feeder.read_enable),
            activations.read_address.eq(feeder.read_address),
            compute.feeder_busy.eq(feeder.busy),
            compute.filled.eq(feeder.filled),
            tile.hold.eq(feeder.busy),
        ]
        if config.chained:
            m.d.comb += [
                feeder.chain.eq(tile.o.payload.chain),
                compute.line.eq(tile.geometry.pixels_inner),
                array.fetched.eq(compute.fetched),
                array.chain.eq(compute.chain),
            ]
        if config.packs:
            m.d.comb += feeder.pack.eq(tile.o.payload.pack)
        if config.combined:
            m.d.comb += [feeder.window.eq(tile.window), compute.window.eq(tile.window)]
        for index, patch in enumerate(patches):
            m.d.comb += [
                patch.write_enable.eq(feeder.write_enable[index]),
                patch.write_row.eq(feeder.write_address),
                patch.write_data.eq(feeder.write_data),
                patch.read_enable.eq(compute.read_enable),
                patch.read_address.eq(compute.activation_address),
                array.activations[index].eq(patch.read_data),
            ]

        # Compute
        m.d.comb += [
            weights.read_enable.eq(compute.weight_enable),
            weights.read_address.eq(compute.weight_address),
            array.weights.eq(weights.read_data),
            array.valid.eq(compute.beat),
            array.last.eq(compute.last),
            *([array.control.eq(compute.control)] if config.unit.control else []),
            *([array.activation_index.eq(compute.activation_index)] if compute.feeds else []),
            quant.job.eq(compute.job),
            quant.job_valid.eq(compute.job_valid),
            quant.results.eq(array.results),
            array.shift.eq(quant.shift),
            channels.read_enable.eq(quant.channel_enable),
            channels.read_address.eq(quant.channel_row),
            quant.channel_data.eq(channels.read_data),
            compute.ended.eq(quant.end),
        ]

        # Output
        m.d.comb += [
            output.write_address.eq(quant.write_row),
            output.write_data.eq(quant.write_data),
            output.write_enable.eq(quant.write_enable),
            output.read_address.eq(store.read_row),
            output.read_enable.eq(store.read_enable),
            store.read_data.eq(output.read_data),
            store.acknowledged.eq(self.acknowledged),
            self.snapshot.eq(store.snapshot),
        ]
        wiring.connect(m, wiring.flipped(self.counters), store.counters)
        wiring.connect(m, store.request, wiring.flipped(self.writes))
        wiring.connect(m, store.words, wiring.flipped(self.words))

        # Tokens
        m.submodules.tokens = tokens = TokenBank(config.token_limit)
        ends = ((load.ended, load.post), (quant.end, quant.post), (store.ended, store.post))
        for unit, part, (ended, post) in zip(Unit, parts, ends, strict=True):
            m.d.comb += [
                tokens.wait_for[unit].eq(part.wait_for),
                part.waited.eq(tokens.waited[unit]),
                tokens.take[unit].eq(part.take),
                tokens.give[unit].eq(ended),
                tokens.post[unit].eq(post),
            ]

        # What the outside sees
        m.d.comb += [
            self.idle.eq(
                fetch.idle
                & Cat(queue.level == 0 for queue in queues).all()
                & Cat(decoder.idle for decoder in decoders).all()
                & load.idle
                & compute.idle
                & store.idle
            ),
            self.progress.eq(compute.beating),
        ]
        m.d.comb += self.overflow.eq(tokens.overflow)
        m.d.sync += self.illegal.eq(fetch.illegal | load.illegal | compute.illegal | store.illegal)
        compute_lacks_load = tokens.lacking[Unit.COMPUTE][Unit.LOAD]
        load_lacks_compute = tokens.lacking[Unit.LOAD][Unit.COMPUTE]
        events = {
            "compute_beats": compute.beating,
            "compute_wait_load": compute.waiting & compute_lacks_load,
            "compute_wait_store": compute.waiting & ~compute_lacks_load,
            "compute_wait_drain": compute.draining,
            "compute_wait_fetch": compute.starving,
            "load_beats": self.word_valid[1],
            "load_wait_compute": load.waiting & load_lacks_compute,
            "load_wait_store": load.waiting & ~load_lacks_compute,
            "load_wait_memory": load.pending,
            "fetch_beats": self.word_valid[0],
            "store_wait_compute": store.waiting,
            "results": quant.result,
            "compute_wait_words": compute.lacking,
        }
        for index, (name, _) in enumerate(COUNTERS):
            if name in events:
                m.d.comb += self.events[index].eq(events[name])
        return m


class Engine(wiring.Component):
    """The accelerator: decoupled load, compute and store around an output-stationary array.

    ::

        m_axi ──┬── ReadPort ──┬── fetch ──► queues ──► load | compute | store
                │              └── load ──► activations, weights, channels
                │                                 │          │         │
                │                                 └── array ◄┘         │
                │                                       │              │
                │                                     quant ◄──────────┘
                │                                       │
                └── WritePort ◄── store ◄── output ◄────┘
        s_axil ──── RegisterPort ──► control, status, event counters

    A host grants a window of memory (``memory_base``, ``memory_size``), puts program and data into it and
    writes 1 to ``control``. The engine runs the program to its end (``done``) or to a fault: then no
    further burst is sent, bursts under way are finished, with empty strobes if they are writes, and
    everything but the registers returns to its initial state; the next start is as good as the first.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    clk, rst : clock; reset, synchronous
    irq : done or fault, while ``irq_enable`` is set
    s_axil_* : AXI4-Lite, registers of :mod:`bitwright.hw.sched.registers`
    m_axi_* : AXI4, ``bus_bits`` wide, one ID bit

    Attributes
    ----------
    busy, fault : Signal
        Bits of the register ``status``; no ports, but a design that the engine is part of may look at them.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.busy = Signal()
        self.fault = Signal()
        self._registers = RegisterPort()
        bus = {
            "bus_bits": config.bus_bits,
            "burst_beats": config.burst_beats,
            "address_bits": config.word_address_bits,
        }
        self._read = ReadPort(**bus)
        self._write = WritePort(**bus)
        members: dict[str, wiring.Member] = {"clk": In(1), "rst": In(1), "irq": Out(1)}
        for component, prefix, port in (
            (self._registers, "s_", "s_axil_"),
            (self._write, "m_", "m_axi_"),
            (self._read, "m_", "m_axi_"),
        ):
            for name, member in component.signature.members.items():
                if name.startswith(prefix):
                    members[port + name.removeprefix(prefix)] = member
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = port = self._registers
        m.submodules.read = read = self._read
        m.submodules.write = write = self._write
        for component, prefix, outer in (
            (port, "s_", "s_axil_"),
            (write, "m_", "m_axi_"),
            (read, "m_", "m_axi_"),
        ):
            for name, member in component.signature.members.items():
                if name.startswith(prefix):
                    inside = getattr(component, name)
                    outside = getattr(self, outer + name.removeprefix(prefix))
                    m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)

        # The core has a reset of its own, from a register, and the very same clock: one that was merely
        # assigned would come a delta cycle later in a simulator.
        core = Core(config)
        clear = Signal()
        m.domains.sync = sync = ClockDomain("sync")
        m.domains.core = core_domain = ClockDomain("core")
        sync.clk = core_domain.clk = self.clk
        sync.rst = self.rst
        core_domain.rst = Signal(name="core_rst", init=1)  # so the engine's reset is the core's as well
        m.d.sync += core_domain.rst.eq(clear)
        m.submodules.core = DomainRenamer("core")(core)
        m.submodules.counters = counters = EventCounters(config.bus_bits)

        # Registers
        # A register is as wide as it needs to be; bits above read zero.
        widths = {
            "memory_base": 20,  # of 4096 bytes each
            "memory_size": config.address_bits + 1,
            "program": config.address_bits,
            "instructions": COUNT_BITS,
            "watchdog": 32,
            "irq_enable": 1,
        }
        values: dict[str, Signal] = {name: Signal(min(bits, 32), name=name) for name, bits in widths.items()}
        busy = self.busy
        done = Signal()
        fault = self.fault
        code = Signal(8)
        offsets = {register.name: register.offset for register in REGISTERS}
        for name, value in values.items():
            with m.If(port.write & (port.write_address == offsets[name]) & ~busy):
                low = 32 - len(value) if name == "memory_base" else 0
                mask = port.write_mask[low:]
                m.d.sync += value.eq((value & ~mask) | (port.write_data[low:] & mask))
        readable = {
            **values,
            "memory_base": Cat(Const(0, 12), values["memory_base"]),
            "id": Const(ID_VALUE, 32),
            "control": Const(0, 32),
            "status": Cat(busy, done, fault, Const(0, 5), code),
        }
        is_counter = port.read_address[6]
        with m.If(is_counter):
            m.d.comb += [port.read_data.eq(counters.value), port.read_done.eq(counters.done)]
        with m.Else():
            m.d.comb += port.read_done.eq(1)
            with m.Switch(port.read_address):
                for name, readable_value in readable.items():
                    with m.Case(offsets[name]):
                        m.d.comb += port.read_data.eq(readable_value)
        m.d.comb += [
            counters.read.eq(port.read & is_counter),
            counters.index.eq(port.read_address[2:6]),
            self.irq.eq(values["irq_enable"][0] & (done | fault)),
        ]

        # Run
        shift = (config.bus_bytes - 1).bit_length()
        running = Signal()
        stop = Signal()
        begin = Signal()
        settled = Signal()
        still = Signal(33, init=1)  # cycles without progress, and one; it stays at its greatest value
        expired = Signal()
        progress = Signal()
        m.d.sync += progress.eq(read.valid.any() | write.beat | core.progress)
        m.d.comb += [
            core.start.eq(begin),
            core.program.eq(values["program"] >> shift),
            core.count.eq(values["instructions"]),
        ]
        m.d.sync += settled.eq(core.idle & read.idle & write.idle)

        requested = (
            port.write & (port.write_address == offsets["control"]) & port.write_data[0] & port.write_mask[0]
        )
        with m.FSM():
            with m.State("IDLE"), m.If(requested):
                m.d.sync += [busy.eq(1), done.eq(0), fault.eq(0), code.eq(Fault.NONE)]
                m.d.comb += [clear.eq(1), counters.clear.eq(1)]
                m.next = "CLEAR"
            with m.State("CLEAR"):
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += begin.eq(1)
                m.d.sync += running.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(settled):
                    m.d.sync += [running.eq(0), busy.eq(0), done.eq(1)]
                    m.next = "IDLE"
                for cause, why in (
                    (core.overflow, Fault.TOKEN_OVERFLOW),
                    (expired, Fault.WATCHDOG),
                    (write.error, Fault.WRITE_ERROR),
                    (read.error, Fault.READ_ERROR),
                    (read.outside | write.outside, Fault.ADDRESS),
                    (core.illegal, Fault.ILLEGAL_INSTRUCTION),
                ):
                    with m.If(cause):
                        m.d.sync += [running.eq(0), busy.eq(1), done.eq(0), fault.eq(1), code.eq(why)]
                        m.next = "STOP"
            with m.State("STOP"):
                # It lasts until the core is in reset, as what the core asks for before that must not be sent.
                m.d.comb += [stop.eq(1), clear.eq(1)]
                with m.If(core_domain.rst & read.idle & write.idle):
                    m.d.sync += busy.eq(0)
                    m.next = "IDLE"

        # Counted up, as an adder with a reset takes half the cells of one that is loaded.
        with m.If(~running | progress):
            m.d.sync += still.eq(1)
        with m.Elif(~still[32]):
            m.d.sync += still.eq(still + 1)
        m.d.sync += expired.eq(running & ~progress & (still == values["watchdog"]))

        # Ports
        for master in (read, write):
            m.d.comb += [
                master.base.eq(readable["memory_base"]),
                master.size.eq(values["memory_size"] >> shift),
                master.stop.eq(stop),
            ]
        wiring.connect(m, core.reads[0], read.request[0])
        wiring.connect(m, core.reads[1], read.request[1])
        wiring.connect(m, core.writes, write.request)
        wiring.connect(m, core.words, write.data)
        wiring.connect(m, counters.o, core.counters)
        m.d.comb += [
            core.word.eq(read.data),
            core.word_valid.eq(read.valid),
            read.hold.eq(core.hold),
            core.acknowledged.eq(write.idle),
            counters.snapshot.eq(core.snapshot),
        ]
        outside_events = {
            "cycles": Const(1),
            "store_beats": write.beat,
            "store_wait_memory": ~write.idle & ~write.beat,
        }
        for index, (name, _) in enumerate(COUNTERS):
            event = outside_events.get(name, core.events[index])
            # Between runs nothing counts, neither what was missing nor what a fault has left to be finished.
            m.d.comb += counters.events[index].eq(event & running)
        return m
