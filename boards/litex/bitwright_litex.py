"""A generated engine in a LiteX SoC.

Needs LiteX and the folder that ``bitwright generate`` wrote, not Bitwright itself: copy this file to where
your target is, or import it from where it is installed (``bitwright.boards.litex.bitwright_litex``)::

    from bitwright_litex import add_bitwright

    add_bitwright(soc, "build/tiny")

The engine's registers become a region of the SoC's bus, its memory port an initiator there, so that it
reaches main memory as the CPU does; LiteX converts widths and protocols. ``irq`` becomes an interrupt where
there is a CPU.
"""

import json
from pathlib import Path
from typing import Any

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import axi, wishbone
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, Instance, ResetSignal

__all__ = ["REGION_BYTES", "Bitwright", "add_bitwright"]

REGION_BYTES = 0x100
"""Size of the region of registers."""


class Bitwright(LiteXModule):
    """The engine as a LiteX module.

    Parameters
    ----------
    platform
        Gets ``engine.v`` as a source.
    folder
        Where ``bitwright generate`` wrote ``engine.v`` and ``engine.json``, with AXI or Wishbone buses.
    clock_domain
        What it runs in.

    Attributes
    ----------
    registers
        Bus target, 32 bits: AXI4-Lite or Wishbone, as the engine was generated.
    memory
        Bus initiator, as wide as the engine's memory port: AXI4 or Wishbone.
    ev
        Event manager, whose source ``ended`` follows the engine's output.

    Raises
    ------
    ValueError
        The folder has no engine.
    """

    def __init__(self, platform: Any, folder: str | Path, clock_domain: str = "sys"):
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "engine.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: has no engine of `bitwright generate` ({error})") from None
        widths = {port["name"]: port["width"] for port in manifest["ports"]}
        self.ev = EventManager()
        self.ev.ended = EventSourceLevel(description="The engine is done, or stopped with a fault.")
        self.ev.finalize()
        connections = {
            "i_clk": ClockSignal(clock_domain),
            "i_rst": ResetSignal(clock_domain),
            "o_irq": self.ev.ended.trigger,
        }
        if "wb_cyc" in widths:
            bits = widths["wb_dat_w"]
            self.registers = wishbone.Interface(data_width=32, address_width=32, addressing="word")
            self.memory = wishbone.Interface(
                data_width=bits, address_width=32, addressing="word", bursting=True
            )
            for prefix, bus, into in (("s_wb_", self.registers, True), ("wb_", self.memory, False)):
                for name in ("cyc", "stb", "we", "adr", "sel", "dat_w", "cti", "bte"):
                    if prefix + name in widths:
                        signal = getattr(bus, name)
                        connections[("i_" if into else "o_") + prefix + name] = signal[
                            : widths[prefix + name]
                        ]
                for name in ("dat_r", "ack", "err"):
                    connections[("o_" if into else "i_") + prefix + name] = getattr(bus, name)
        else:
            bits = widths["m_axi_wdata"]
            self.registers = axi.AXILiteInterface(data_width=32, address_width=32)
            self.memory = axi.AXIInterface(data_width=bits, address_width=32, id_width=1)
            for prefix, bus, into in (("s_axil_", self.registers, True), ("m_axi_", self.memory, False)):
                for port, width in widths.items():
                    if not port.startswith(prefix):
                        continue
                    channel_name, name = _split(port.removeprefix(prefix))
                    channel = getattr(bus, channel_name)
                    # What the initiator drives, and what its target answers.
                    driven = (name != "ready") if channel_name in ("aw", "w", "ar") else (name == "ready")
                    signal = getattr(channel, name)[:width]
                    connections[("i_" if driven == into else "o_") + port] = signal
        self.specials += Instance(manifest["top"], **connections)
        platform.add_source(str(folder / "engine.v"))


def _split(port: str) -> tuple[str, str]:
    """Channel and signal of an AXI port's name."""
    channel = port[:2] if port.startswith(("aw", "ar")) else port[:1]
    return channel, port.removeprefix(channel)


def add_bitwright(
    soc: Any, folder: str | Path, name: str = "bitwright", origin: int | None = None
) -> Bitwright:
    """Add an engine to a SoC: its registers, its way to memory and its interrupt.

    Parameters
    ----------
    soc
        A LiteX ``SoC``, before it is finalised.
    folder
        See :class:`Bitwright`.
    name
        Of the module and of the region.
    origin
        Address of the registers; found by LiteX unless given.
    """
    engine = Bitwright(soc.platform, folder)
    soc.add_module(name=name, module=engine)
    region = SoCRegion(origin=origin, size=REGION_BYTES, cached=False)
    soc.bus.add_slave(name=f"{name}_registers", slave=engine.registers, region=region)
    # A CPU with a coherent port for others has a bus of its own for them.
    (getattr(soc, "dma_bus", None) or soc.bus).add_master(name=f"{name}_memory", master=engine.memory)
    if soc.irq.enabled:
        soc.irq.add(name, use_loc_if_exists=True)
    return engine
