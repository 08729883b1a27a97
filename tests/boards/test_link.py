"""The host's end of the link, against a device that was written apart from it."""

import random

import pytest

from bitwright.boards.faults import FaultyTransport
from bitwright.boards.link import BusError, Link, LinkError, decode_frames, encode_frame, open_port


def quick(transport):
    return Link(transport, timeout=0.001, baud=10_000_000)


def test_frame():
    # The check value of CRC-32: 0xCBF43926 for "123456789".
    assert encode_frame(b"123456789").hex(" ") == "7e 31 32 33 34 35 36 37 38 39 26 39 f4 cb 7e"
    assert encode_frame(b"\x7e\x7d")[:5].hex(" ") == "7e 7d 5e 7d 5d"


def test_decode_frames(seed):
    rng = random.Random(seed)
    contents = [rng.randbytes(rng.randint(1, 40)) for _ in range(20)] + [b"\x7e\x7d\x7e" * 5]
    line = b"".join(encode_frame(content) for content in contents)
    pending, found = bytearray(), []
    for byte in line:
        pending.append(byte)
        found += decode_frames(pending)
    assert found == contents
    assert not pending
    # Whatever single byte is changed, the frame is not taken.
    good = encode_frame(b"0123456789")
    for place in range(1, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= rng.randint(1, 255)
        assert not any(decode_frames(bad))


def test_memory(device, seed):
    rng = random.Random(seed)
    there = device()
    link = quick(there)
    data = rng.randbytes(4 * 333)
    link.write(0x100, data)
    assert link.read(0x100, len(data)) == data
    assert link.read(0x104, 8) == data[4:12]
    # As long as they may be: identify, six writes, six reads, and the short one.
    assert link.statistics.requests == 1 + 6 + 6 + 1
    assert link.statistics.retries == 0
    link.close()
    assert there.closed


@pytest.mark.parametrize(("address", "size"), [(2, 4), (4, 6), (0xFFFF_FFFC, 8), (-4, 4)])
def test_ranges(address, size, device):
    link = quick(device())
    with pytest.raises(ValueError, match="must be multiples of 4 within 32 bits"):
        link.read(address, size)
    with pytest.raises(ValueError, match="must be multiples of 4 within 32 bits"):
        link.write(address, bytes(size))


def test_bus_error(device):
    link = quick(device(bad=(0x108, 0x200)))
    for access in (lambda: link.read(0x100, 16), lambda: link.write(0x100, bytes(16))):
        with pytest.raises(BusError, match="address 0x00000108: the device's bus answered") as caught:
            access()
        assert caught.value.address == 0x108
    with pytest.raises(BusError, match=r"0x00000200.* to the write"):
        link.write_register(0x200, 1)
    link.write_register(0x10C, 7)
    assert link.read_register(0x10C) == 7


def test_nobody_there(device):
    there = device()
    there.mute = True
    link = quick(there)
    with pytest.raises(LinkError, match=r"no answer to 20 attempts to identify within 0\.001 s and more"):
        link.read(0, 4)
    # It comes to life, and all is well.
    there.mute = False
    assert link.read(0, 4) == b"\x00\x7e\x7d\x20"


def test_other_version(device):
    with pytest.raises(LinkError, match="speaks version 2 of the link's protocol, this is version 1"):
        quick(device(version=2)).identify()


def test_port_that_is_not_there():
    with pytest.raises(LinkError, match="port '/dev/not/there': cannot be opened"):
        open_port("/dev/not/there", baud=115200)
    with pytest.raises(LinkError, match="port 'nothing://x': cannot be opened"):
        open_port("nothing://x", baud=115200)


def test_bad_line(device, seed):
    """1 % of the bytes dropped, flipped, inserted: memory is what was written, a register is written once."""
    rng = random.Random(seed)
    there = device()
    line = FaultyTransport(there, rate=0.01, seed=seed)
    link = quick(line)
    model = {}
    for number in range(300):
        address = 4 * rng.randrange(200)
        if number % 3 == 0:
            data = rng.randbytes(4 * rng.randint(1, 80))
            link.write(address, data)
            model.update({address + index: data[index : index + 4] for index in range(0, len(data), 4)})
        elif number % 3 == 1:
            size = 4 * rng.randint(1, 80)
            expected = [model.get(address + index, b"\x00\x7e\x7d\x20") for index in range(0, size, 4)]
            assert link.read(address, size) == b"".join(expected)
        else:
            there.writes.clear()
            link.write_register(0x8000_0004, number)
            assert there.writes.count(0x8000_0004) == 1
    print(dict(line.injected), link.statistics)
    assert (
        min(
            line.injected[f"{way} {what}"]
            for way in ("sent", "received")
            for what in ("dropped", "flipped", "inserted")
        )
        > 20
    )
    assert link.statistics.damaged > 20


def test_fault_rates(device):
    class Sink(device):
        def write(self, data):
            self.got = data

    sink = Sink()
    line = FaultyTransport(sink, rate=0.1, seed=1)
    line.write(bytes(10_000))
    counts = line.injected
    for what, expected in (("dropped", 1000), ("flipped", 900), ("inserted", 1000)):
        assert 0.85 * expected < counts[f"sent {what}"] < 1.15 * expected
    assert len(sink.got) == 10_000 - counts["sent dropped"] + counts["sent inserted"]
    with pytest.raises(ValueError, match="rate must be from 0 to 1, not 2"):
        FaultyTransport(sink, rate=2, seed=1)
