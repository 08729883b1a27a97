"""Runs a compiled network on a board, from Python.

::

    from bitwright.boards.host import Accelerator

    with Accelerator.open("/dev/ttyUSB1", program="build/program.npz", baud=1_000_000) as accelerator:
        scores = accelerator.run(images)
        print(accelerator.counters()["cycles"])
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.gen.host_part import OFFSETS, start_registers
from bitwright.gen.program import Program
from bitwright.hw.bus.link import REGISTER_WINDOW
from bitwright.hw.errors import BitwrightError
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault

from .link import Link, LinkError, Transport, open_port

__all__ = ["Accelerator", "EngineFault", "EngineTimeout", "Registers"]

_WATCHDOG_CYCLES = 1_000_000
_ACCESS = {register.name: register.access for register in REGISTERS}
_COUNTERS = {name: COUNTER_BASE + 4 * index for index, (name, _) in enumerate(COUNTERS)}


class EngineFault(BitwrightError):  # noqa: N818
    """The engine stopped with a fault.

    Parameters
    ----------
    fault
        Which.
    """

    def __init__(self, fault: Fault):
        self.fault = fault
        super().__init__(f"the engine stopped with fault {fault.name}; see the fault codes in docs/host.md")


class EngineTimeout(BitwrightError):  # noqa: N818
    """The engine did not end in time; it is still running, and another start would be ignored."""


class Registers(Mapping[str, int]):
    """Registers of the engine by name, read and written when they are asked for.

    ``registers["status"]`` reads one, ``registers["watchdog"] = 1000`` writes it. Event counters are among
    them; they can be read only.

    Parameters
    ----------
    link
        The link to the board.
    """

    def __init__(self, link: Link):
        self._link = link
        self._offsets = {**OFFSETS, **_COUNTERS}

    def _offset(self, name: str) -> int:
        if name not in self._offsets:
            raise BitwrightError(f"register {name!r}: there is none; there are {', '.join(self._offsets)}")
        return self._offsets[name]

    def __getitem__(self, name: str) -> int:
        return self._link.read_register(REGISTER_WINDOW + self._offset(name))

    def __setitem__(self, name: str, value: int) -> None:
        offset = self._offset(name)
        if _ACCESS.get(name) != "rw":
            raise BitwrightError(f"register {name!r}: cannot be written")
        if not 0 <= value < 1 << 32:
            raise BitwrightError(f"register {name!r} = {value!r}: must be an integer from 0 to 2**32 - 1")
        self._link.write_register(REGISTER_WINDOW + offset, value)

    def __contains__(self, name: object) -> bool:
        return name in self._offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


class Accelerator:
    """A board with an engine and a program in its memory.

    Parameters
    ----------
    link
        To the board. :meth:`open` makes one from a port's name.
    program
        What ``bitwright compile`` wrote, for the configuration that the board has.
    memory_base
        Byte address at which the engine and the link see the memory, a multiple of 4096.
    timeout
        Seconds that an inference may take.
    load
        Whether to :meth:`load` the program; not needed where this very program is in the board's memory.

    Raises
    ------
    LinkError
        Nothing answers, or what answers has no engine.
    NetworkError
        The program cannot be read.
    BitwrightError
        The program leaves in memory less than the network's output takes.
    """

    def __init__(
        self,
        link: Link,
        program: Program | str | Path,
        *,
        memory_base: int = 0,
        timeout: float = 10.0,
        load: bool = True,
    ):
        if memory_base % 4096 or not 0 <= memory_base < REGISTER_WINDOW:
            raise BitwrightError(
                f"memory_base = {memory_base:#x}: must be a multiple of 4096 below {REGISTER_WINDOW:#x}"
            )
        self.link = link
        self.program = program if isinstance(program, Program) else Program.load(Path(program))
        self.memory_base = memory_base
        self.timeout = timeout
        self.registers = Registers(link)
        """The engine's registers; see :class:`Registers`."""
        host = self.program.host
        if host is None:
            raise BitwrightError(
                "the program has no part of a network for the host; compile it from a network"
            )
        self._host = host
        for name in host.needed:
            if name not in self.program.placements or not self.program.placements[name].stored:
                raise BitwrightError(
                    f"tensor '{name}': the program does not leave it in memory; compile with --tensors all"
                )
        link.identify()
        identity = self.registers["id"]
        if identity != ID_VALUE:
            raise LinkError(
                f"register 'id' is {identity:#010x}, not {ID_VALUE:#010x}: no engine of ours is there"
            )
        if load:
            self.load()

    @classmethod
    def open(
        cls,
        port: str | Transport,
        *,
        program: Program | str | Path,
        baud: int = 115200,
        memory_base: int = 0,
        timeout: float = 10.0,
        link_timeout: float = 0.25,
        load: bool = True,
    ) -> "Accelerator":
        """Open a port, and put a program into the memory of the board behind it.

        Parameters
        ----------
        port
            A device, any other URL of pyserial, or an open transport.
        program, memory_base, timeout, load
            As of the class.
        baud
            Bits per second, as the board's top was built for.
        link_timeout
            Seconds to wait for a reply, besides the time on the line, before asking again.

        Raises
        ------
        LinkError
            The port cannot be opened; otherwise as the class. The port is closed again then.
        """
        loaded = program if isinstance(program, Program) else Program.load(Path(program))
        transport = open_port(port, baud=baud) if isinstance(port, str) else port
        try:
            link = Link(transport, baud=baud, timeout=link_timeout)
            return cls(link, loaded, memory_base=memory_base, timeout=timeout, load=load)
        except BaseException:
            transport.close()
            raise

    def load(self) -> None:
        """Put the program's image into memory, and its place into the registers."""
        image = self.program.image
        self.link.write(self.memory_base, image + bytes(-len(image) % 4))
        for offset, value in start_registers(
            memory_base=self.memory_base,
            memory_bytes=self.program.memory_bytes,
            program_address=self.program.program_address,
            instructions=len(self.program.instructions),
            watchdog=_WATCHDOG_CYCLES,
            irq=False,
        ):
            self.link.write_register(REGISTER_WINDOW + offset, value)

    def run(self, inputs: ArrayLike) -> NDArray[Any]:
        """The network's output for one input, or for several.

        Parameters
        ----------
        inputs
            What :func:`~bitwright.sim.golden.prepare_input` accepts: an array of the network's input shape,
            or several along a leading axis.

        Returns
        -------
        An array of the network's output shape; with the leading axis, if the inputs had it. Exactly what the
        golden model, and so the network's own runtime, gives.

        Raises
        ------
        NetworkError
            The input does not fit.
        EngineFault
            The engine stopped.
        EngineTimeout
            It did not.
        LinkError
            The board does not answer.
        """
        host = self._host
        codes = host.codes(inputs)
        info = host.tensors[host.input]
        left: dict[str, list[NDArray[Any]]] = {name: [] for name in host.needed}
        for each in codes:
            self._infer(each)
            for name, values in left.items():
                place = self.program.placements[name]
                values.append(place.decode(self.link.read(self.memory_base + place.address, place.size)))
        stacked = {name: np.stack(values) for name, values in left.items()}
        outputs = host.finish({host.source: codes, **stacked})
        output = outputs[host.output]
        single = np.ndim(inputs) <= len(info.shape) and len(codes) == 1
        return output[0] if single else output

    def _infer(self, codes: NDArray[Any]) -> None:
        place = self.program.placements[self._host.source]
        self.link.write(self.memory_base + place.address, place.encode(codes))
        self.registers["control"] = 1
        deadline = time.monotonic() + self.timeout
        while (status := self.registers["status"]) & 1:
            if time.monotonic() > deadline:
                raise EngineTimeout(
                    f"the engine has not ended after {self.timeout:g} s (status {status:#x}); "
                    "give it more with `timeout`, or reset the board"
                )
        if status & 4:
            raise EngineFault(Fault(status >> 8 & 0xFF))
        if not status & 2:
            raise LinkError(
                f"the engine did not run (status {status:#x}): the board has been reset meanwhile"
            )

    def counters(self) -> dict[str, int]:
        """Event counters of the last inference, by name; see ``COUNTERS`` of the register description."""
        raw = self.link.read(REGISTER_WINDOW + COUNTER_BASE, 4 * len(COUNTERS))
        return dict(zip(_COUNTERS, np.frombuffer(raw, "<u4").tolist(), strict=True))

    def close(self) -> None:
        """Close the port."""
        self.link.close()

    def __enter__(self) -> "Accelerator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
