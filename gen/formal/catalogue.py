"""Every proof that there is, with what it is about, how it is made and within which bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Opcode

from ..config import load
from . import bus, engine, host, memory, sched, transfer
from .bench import Bench
from .solver import Result, solve

__all__ = ["PROOFS", "Proof"]


@dataclass(frozen=True)
class Proof:
    """Claims about one component.

    Parameters
    ----------
    name
        As it is called on the command line.
    component
        File in `hw/`, and class.
    make
        Fills the bench; its docstring says what is claimed.
    parameters
        Of `make`.
    bounds
        Of what size the component is.
    steps
        Cycles of the induction, where it is one.
    depth
        Cycles after the reset, where it is bounded.
    quick
        Whether it is also a test: it takes some seconds.
    """

    name: str
    component: str
    make: Callable[..., None]
    parameters: Callable[[], dict[str, Any]]
    bounds: str
    steps: int | None = None
    depth: int | None = None
    quick: bool = True

    @property
    def method(self) -> str:
        """How it is proved, in words."""
        if self.depth is not None:
            return f"bounded: {self.depth} cycles"
        if self.steps is not None:
            return "unbounded: induction"
        return "unbounded: reachability (PDR)"

    @property
    def claim(self) -> str:
        """What is proved, in a sentence."""
        return " ".join((self.make.__doc__ or "").split("\n\n")[0].split())

    def build(self, **changes: Any) -> Callable[[Bench], None]:
        """What fills the bench; with other parameters, as with a component that is broken on purpose."""
        return partial(self.make, **{**self.parameters(), **changes})

    def run(self, folder: Path, *, timeout: float = 1200, **changes: Any) -> Result:
        """Prove it; see :func:`~bitwright.gen.formal.solver.solve`, which says what is raised."""
        return solve(
            self.name,
            self.build(**changes),
            folder,
            steps=self.steps,
            depth=self.depth,
            timeout=timeout,
        )


@cache
def _tiny() -> EngineConfig:
    return load("tiny")


def _given(**parameters: Any) -> Callable[[], dict[str, Any]]:
    return lambda: parameters


def _of_tiny(**parameters: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"config": _tiny(), **parameters}


def _of_base(**parameters: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"config": load("base"), **parameters}


_FIFO = "memory/fifo.py: BlockFifo"
_BASE_PORT = {"bus_bits": 64, "burst_beats": 16, "address_bits": 29, "under_way_bits": 12}

_ALL = (
    Proof("fifo", _FIFO, memory.fifo, _given(depth=4, registered=True), "4 words of 4 bits"),
    Proof(
        "fifo-plain", _FIFO, memory.fifo, _given(depth=4, registered=False), "4 words of 4 bits, no register"
    ),
    Proof("fifo-8", _FIFO, memory.fifo, _given(depth=8, registered=True), "8 words of 4 bits", quick=False),
    Proof(
        "splitter",
        "bus/burst.py: BurstSplitter",
        bus.splitter,
        _given(burst_beats=4, address_bits=6, beats_bits=4, row_bits=3),
        "bursts of 4, addresses of 6 bits",
        steps=3,
    ),
    Proof(
        "splitter-wide",
        "bus/burst.py: BurstSplitter",
        bus.splitter,
        _given(burst_beats=16, address_bits=29, beats_bits=20, row_bits=16),
        "bursts of 16, addresses of 29 bits",
        steps=3,
        quick=False,
    ),
    Proof(
        "window",
        "bus/axi4.py: WindowCheck",
        bus.window_check,
        _given(bus_bytes=8, burst_beats=16, address_bits=29, order=False),
        "64 bits wide, addresses of 32 bits, any window",
        steps=4,
    ),
    Proof(
        "window-order",
        "bus/axi4.py: WindowCheck",
        bus.window_check,
        _given(bus_bytes=4, burst_beats=4, address_bits=6, order=True),
        "32 bits wide, words of the window's first 64",
        quick=False,
    ),
    Proof(
        "read-port",
        "bus/axi4.py: ReadPort",
        bus.read_port,
        _given(**_BASE_PORT),
        "64 bits wide, any window",
        steps=4,
    ),
    Proof(
        "write-port",
        "bus/axi4.py: WritePort",
        bus.write_port,
        _given(**_BASE_PORT),
        "64 bits wide, any window",
        steps=3,
        quick=False,
    ),
    Proof("registers", "bus/axi4lite.py: RegisterPort", bus.register_port, _given(), "as built"),
    Proof("bridge", "bus/wishbone.py: AxiLiteBridge", bus.bridge, _given(), "as built"),
    Proof(
        "bridged-registers",
        "bus/wishbone.py, axi4lite.py: AxiLiteBridge, RegisterPort",
        bus.bridged_registers,
        _given(),
        "as built",
    ),
    Proof(
        "axi-to-wishbone",
        "bus/axi_to_wishbone.py: AxiToWishbone",
        bus.axi_to_wishbone,
        _given(bus_bits=32),
        "32 bits wide",
        quick=False,
    ),
    Proof("tokens", "sched/tokens.py: TokenBank", sched.tokens, _given(limit=3), "limit 3", steps=3),
    Proof(
        "tokens-63",
        "sched/tokens.py: TokenBank",
        sched.tokens,
        _given(limit=63),
        "limit 63",
        steps=3,
        quick=False,
    ),
    Proof(
        "schedule",
        "sched/tokens.py: TokenBank and a model of the units",
        sched.schedule,
        _given(window=4, queued=2, limit=4),
        "4 instructions under way, 2 waiting for a unit, limit 4; programs of any length",
        steps=2,
        quick=False,
    ),
    Proof("fetch", "sched/fetch.py: FetchUnit", sched.fetch, _of_tiny(), "of `tiny`", steps=4, quick=False),
    Proof(
        "read-arbiter",
        "bus/axi4.py, sched/fetch.py: ReadPort, FetchUnit",
        sched.read_arbiter,
        _of_tiny(cycles=8),
        "of `tiny`",
        depth=40,
        quick=False,
    ),
    *(
        Proof(
            f"decoder-{opcode.name.lower()}",
            "sched/decode.py: InstructionDecoder",
            sched.decoder,
            _of_tiny(opcode=opcode),
            "of `tiny`",
            quick=opcode is Opcode.LOAD,
        )
        for opcode in (Opcode.LOAD, Opcode.STORE)
    ),
    Proof(
        "load-unit",
        "memory/load.py: LoadUnit",
        transfer.load_unit,
        _of_tiny(),
        "of `tiny`",
        steps=3,
        quick=False,
    ),
    Proof(
        "store-unit",
        "memory/store.py: StoreUnit",
        transfer.store_unit,
        _of_base(),
        "of `base`",
        steps=3,
        quick=False,
    ),
    Proof(
        "host-link",
        "bus/link.py: HostLink",
        host.link,
        _given(address_bits=4, timeout_cycles=16),
        "addresses of 4 bits",
        steps=12,
        quick=False,
    ),
    Proof(
        "main-memory",
        "memory/main.py: MainMemory",
        memory.main_memory,
        _given(burst_beats=4),
        "single-port RAM, bursts of up to 4 words of 32 bits",
    ),
    Proof("engine-window", "engine.py: Engine", engine.window, _of_tiny(), "of `tiny`", steps=3, quick=False),
)

PROOFS = {proof.name: proof for proof in _ALL}
"""Every proof but those of dot-product units, by name."""
