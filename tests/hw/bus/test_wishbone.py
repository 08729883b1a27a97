"""The bridge from Wishbone to AXI4-Lite, in front of the engine's own register port and of a slow one."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.hw.bus.axi4lite import RegisterPort
from bitwright.hw.bus.wishbone import AxiLiteBridge, WishboneSignature


class Pair(wiring.Component):
    """The bridge and the register port."""

    def __init__(self):
        super().__init__({"bus": In(WishboneSignature(address_bits=6))})
        self.port = RegisterPort()

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = bridge = AxiLiteBridge()
        m.submodules.port = port = self.port
        wiring.connect(m, wiring.flipped(self.bus), bridge.bus)
        for name, member in port.signature.members.items():
            if name.startswith("s_"):
                here, there = getattr(bridge, "m_" + name[2:]), getattr(port, name)
                m.d.comb += here.eq(there) if member.flow == Out else there.eq(here)
        return m


async def cycle(ctx, bus, *, adr, we=0, data=0, sel=15):
    """One cycle of the bus: what it read, whether it failed, and how many clocks it took."""
    for name, value in {"adr": adr, "we": we, "dat_w": data, "sel": sel, "cyc": 1, "stb": 1}.items():
        ctx.set(getattr(bus, name), value)
    clocks, ack, err = 0, 0, 0
    while not (ack or err):
        _, _, ack, err, value = await ctx.tick().sample(bus.ack, bus.err, bus.dat_r)
        clocks += 1
        assert clocks < 100
    ctx.set(bus.cyc, 0)
    ctx.set(bus.stb, 0)
    return value, err, clocks


def test_registers(simulate, rng):
    dut = Pair()
    contents = dict.fromkeys(range(0, 256, 4), 0)

    async def registers(ctx):
        port = dut.port
        while True:
            ctx.set(port.read_data, contents[ctx.get(port.read_address)])
            ctx.set(port.read_done, ctx.get(port.read) and rng.random() < 0.3)
            _, _, write, address, data, mask = await ctx.tick().sample(
                port.write, port.write_address, port.write_data, port.write_mask
            )
            if write:
                contents[address] = contents[address] & ~mask | data & mask

    async def host(ctx):
        expected = dict(contents)
        for _ in range(200):
            adr, sel, data = rng.randrange(64), rng.randrange(16), rng.getrandbits(32)
            if rng.random() < 0.5:
                _, err, clocks = await cycle(ctx, dut.bus, adr=adr, we=1, data=data, sel=sel)
                assert clocks == 3  # taken, written, answered
                mask = sum(255 << 8 * byte for byte in range(4) if sel >> byte & 1)
                expected[4 * adr] = expected[4 * adr] & ~mask | data & mask
            else:
                value, err, clocks = await cycle(ctx, dut.bus, adr=adr)
                assert clocks >= 3
                assert value == expected[4 * adr]
            assert not err
            if rng.random() < 0.5:
                await ctx.tick()
        assert contents == expected

    simulate(dut, host, background=[registers])


@pytest.mark.parametrize("stall", [0.0, 0.7])
def test_channels(stall, simulate, rng):
    """Address and data of a write are taken once each, in any order, and errors are passed on."""
    dut = AxiLiteBridge(address_bits=12)
    taken = {"aw": [], "w": [], "ar": []}
    responses = []

    async def far(ctx):
        owed = {"b": 0, "r": 0}
        while True:
            for channel in taken:
                ctx.set(getattr(dut, f"m_{channel}ready"), rng.random() >= stall)
            for channel in owed:
                complete = min(len(taken["aw"]), len(taken["w"])) if channel == "b" else len(taken["ar"])
                valid = owed[channel] < complete and rng.random() >= stall
                ctx.set(getattr(dut, f"m_{channel}valid"), valid)
                ctx.set(getattr(dut, f"m_{channel}resp"), responses[-1] if valid else 0)
            ctx.set(dut.m_rdata, 0x1234_0000 + len(taken["ar"]))
            names = [
                *("m_awvalid", "m_awready", "m_awaddr", "m_wvalid", "m_wready", "m_wdata", "m_wstrb"),
                *("m_arvalid", "m_arready", "m_araddr", "m_bvalid", "m_bready", "m_rvalid", "m_rready"),
            ]
            _, _, *values = await ctx.tick().sample(*(getattr(dut, name) for name in names))
            now = dict(zip(names, values, strict=True))
            if now["m_awvalid"] and now["m_awready"]:
                taken["aw"].append(now["m_awaddr"])
            if now["m_wvalid"] and now["m_wready"]:
                taken["w"].append((now["m_wdata"], now["m_wstrb"]))
            if now["m_arvalid"] and now["m_arready"]:
                taken["ar"].append(now["m_araddr"])
            for channel in owed:
                owed[channel] += now[f"m_{channel}valid"] and now[f"m_{channel}ready"]

    async def host(ctx):
        writes, reads = [], []
        for _ in range(100):
            adr, data = rng.randrange(1024), rng.getrandbits(32)
            responses.append(rng.choice([0, 0, 2, 3]))
            if rng.random() < 0.5:
                _, err, _ = await cycle(ctx, dut.bus, adr=adr, we=1, data=data)
                writes.append((4 * adr, (data, 15)))
            else:
                value, err, _ = await cycle(ctx, dut.bus, adr=adr)
                reads.append(4 * adr)
                assert value == 0x1234_0000 + len(reads)
            assert err == (responses[-1] != 0)
        assert list(zip(taken["aw"], taken["w"], strict=True)) == writes
        assert taken["ar"] == reads

    simulate(dut, host, background=[far])


def test_refuses(refuses):
    refuses("data_bits must be 32, 64 or 128, not 16", WishboneSignature, address_bits=8, data_bits=16)
    refuses("address_bits must be a positive integer, not 0", WishboneSignature, address_bits=0)
    refuses("address_bits must be 3 or more, not 2", AxiLiteBridge, address_bits=2)
