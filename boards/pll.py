"""Settings of the PLLs of iCE40 and ECP5: dividers for a clock, and the primitive that they go to."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from amaranth.hdl import Const, Instance, Signal, Value

from bitwright.hw.errors import ConfigError

__all__ = ["TOLERANCE", "Ecp5Pll", "Ice40Pll", "Pll"]

TOLERANCE = 0.01
"""By how much of it a clock may be off from what was asked for; a UART bears some 2 %."""


@dataclass(frozen=True, kw_only=True)
class Pll(ABC):
    """A PLL whose dividers are chosen.

    Parameters
    ----------
    input_mhz
        The clock that comes in.
    """

    input_mhz: float

    name: ClassVar[str]
    """The primitive."""
    input_range: ClassVar[tuple[float, float]]
    output_range: ClassVar[tuple[float, float]]
    """Clocks that may come in and go out, in MHz."""

    @property
    @abstractmethod
    def output_mhz(self) -> float:
        """The clock that goes out."""

    @property
    @abstractmethod
    def oscillator_mhz(self) -> float:
        """The clock of its oscillator."""

    @property
    @abstractmethod
    def comparison_mhz(self) -> float:
        """The clock that its phase detector compares."""

    @classmethod
    @abstractmethod
    def candidates(cls, input_mhz: float, output_mhz: float) -> Iterator[Self]:
        """Settings that the data sheet allows and whose output is near a clock."""

    @abstractmethod
    def instance(self, clock: Value, output: Signal, locked: Signal) -> Instance:
        """The primitive.

        Parameters
        ----------
        clock
            What comes in.
        output, locked
            What goes out, and that it is steady.
        """

    @classmethod
    def make(cls, input_mhz: float, output_mhz: float) -> Self:
        """The settings that come nearest to a clock; of those, the ones that compare the quickest clock.

        Parameters
        ----------
        input_mhz, output_mhz
            What comes in, and what is to go out.

        Raises
        ------
        ConfigError
            No settings come nearer than :data:`TOLERANCE`.
        """
        low, high = cls.input_range
        if not low <= input_mhz <= high:
            raise ConfigError(
                "clock", input_mhz, f"from {low:g} to {high:g} MHz where it goes into {cls.name}"
            )
        low, high = cls.output_range
        if not low <= output_mhz <= high:
            raise ConfigError("clock", output_mhz, f"from {low:g} to {high:g} MHz, which {cls.name} can make")
        best = min(
            cls.candidates(input_mhz, output_mhz),
            key=lambda pll: (
                round(abs(pll.output_mhz - output_mhz), 6),
                -pll.comparison_mhz,
                pll.oscillator_mhz,
            ),
            default=None,
        )
        if best is None or abs(best.output_mhz - output_mhz) > TOLERANCE * output_mhz:
            nearest = "" if best is None else f"; the nearest is {best.output_mhz:.6g} MHz"
            raise ConfigError(
                "clock", output_mhz, f"a clock that {cls.name} can make of {input_mhz:g} MHz{nearest}"
            )
        return best


@dataclass(frozen=True, kw_only=True)
class Ice40Pll(Pll):
    """SB_PLL40_PAD or SB_PLL40_CORE with the feedback path SIMPLE.

    ::

        output = input * (divf + 1) / ((divr + 1) * 2**divq)
        oscillator = input * (divf + 1) / (divr + 1)              533 to 1066 MHz
        comparison = input / (divr + 1)                           10 to 133 MHz

    Parameters
    ----------
    divr, divf, divq
        Dividers, less one but for ``divq``, a power of two: 0 to 15, 0 to 127, 1 to 6.
    pad
        Whether the clock comes from the pin that belongs to the PLL (SB_PLL40_PAD), or from inside.

    References
    ----------
    Lattice FPGA-TN-02052, iCE40 sysCLOCK PLL Design and Usage Guide; FPGA-DS-02008 (iCE40 UltraPlus) and
    FPGA-DS-02029 (iCE40 LP/HX), table "sysCLOCK PLL Timing"
    """

    divr: int
    divf: int
    divq: int
    pad: bool = False

    name = "SB_PLL40"
    input_range = (10, 133)
    output_range = (16, 275)

    @property
    def comparison_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.input_mhz / (self.divr + 1)

    @property
    def oscillator_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.comparison_mhz * (self.divf + 1)

    @property
    def output_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.oscillator_mhz / (1 << self.divq)

    @property
    def filter_range(self) -> int:
        """FILTER_RANGE: bandwidth of the loop filter, by the clock that is compared."""
        limits = (17, 26, 44, 66, 101)
        return 1 + sum(self.comparison_mhz >= limit for limit in limits)

    @classmethod
    def candidates(cls, input_mhz: float, output_mhz: float) -> Iterator[Self]:
        """Documented in :class:`Pll`."""
        for divr in range(16):
            if not 10 <= input_mhz / (divr + 1) <= 133:
                continue
            for divq in range(1, 7):
                near = output_mhz * 2**divq * (divr + 1) / input_mhz - 1
                for divf in {int(near), int(near) + 1} & set(range(128)):
                    pll = cls(input_mhz=input_mhz, divr=divr, divf=divf, divq=divq)
                    if 533 <= pll.oscillator_mhz <= 1066:
                        yield pll

    def instance(self, clock: Value, output: Signal, locked: Signal) -> Instance:
        """Documented in :class:`Pll`."""
        return Instance(
            "SB_PLL40_PAD" if self.pad else "SB_PLL40_CORE",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(self.divr, 4),
            p_DIVF=Const(self.divf, 7),
            p_DIVQ=Const(self.divq, 3),
            p_FILTER_RANGE=Const(self.filter_range, 3),
            i_RESETB=Const(1, 1),
            i_BYPASS=Const(0, 1),
            o_PLLOUTGLOBAL=output,
            o_LOCK=locked,
            **{"i_PACKAGEPIN" if self.pad else "i_REFERENCECLK": clock},
        )


@dataclass(frozen=True, kw_only=True)
class Ecp5Pll(Pll):
    """EHXPLLL with feedback from CLKOP and the output at CLKOS.

    ::

        comparison = input / clki_div                             10 to 400 MHz
        oscillator = comparison * clkop_div                       400 to 800 MHz
        output = oscillator / clkos_div

    CLKOP is fed back undivided (CLKFB_DIV = 1), so that output and comparison need not be multiples of each
    other: 80 MHz of 25 MHz come from a comparison of 25 MHz.

    Parameters
    ----------
    clki_div, clkop_div, clkos_div
        Dividers, 1 to 128.

    References
    ----------
    Lattice FPGA-TN-02200, ECP5 and ECP5-5G sysCLOCK PLL/DLL Design and Usage Guide; FPGA-DS-02012, ECP5 and
    ECP5-5G Family Data Sheet, table "sysCLOCK PLL Timing"
    """

    clki_div: int
    clkop_div: int
    clkos_div: int

    name = "EHXPLLL"
    input_range = (10, 400)
    output_range = (10, 400)

    @property
    def comparison_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.input_mhz / self.clki_div

    @property
    def oscillator_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.comparison_mhz * self.clkop_div

    @property
    def output_mhz(self) -> float:
        """Documented in :class:`Pll`."""
        return self.oscillator_mhz / self.clkos_div

    @classmethod
    def candidates(cls, input_mhz: float, output_mhz: float) -> Iterator[Self]:
        """Documented in :class:`Pll`."""
        for clki_div in range(1, 129):
            if not 10 <= input_mhz / clki_div <= 400:
                continue
            for clkop_div in range(1, 129):
                oscillator = input_mhz / clki_div * clkop_div
                if not 400 <= oscillator <= 800:
                    continue
                near = int(oscillator / output_mhz)
                for clkos_div in {near, near + 1} & set(range(1, 129)):
                    yield cls(
                        input_mhz=input_mhz, clki_div=clki_div, clkop_div=clkop_div, clkos_div=clkos_div
                    )

    def instance(self, clock: Value, output: Signal, locked: Signal) -> Instance:
        """Documented in :class:`Pll`."""
        ports: dict[str, Any] = {
            f"i_{pin}": Const(0, 1)
            for pin in (
                *("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG"),
                *("PLLWAKESYNC", "ENCLKOP", "ENCLKOS", "ENCLKOS2", "ENCLKOS3"),
            )
        }
        feedback = Signal(name="pll_feedback")
        return Instance(
            "EHXPLLL",
            # The vendor's tools read these.
            a_FREQUENCY_PIN_CLKI=f"{self.input_mhz:.6g}",
            a_FREQUENCY_PIN_CLKOP=f"{self.comparison_mhz:.6g}",
            a_FREQUENCY_PIN_CLKOS=f"{self.output_mhz:.6g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            p_CLKI_DIV=self.clki_div,
            p_CLKFB_DIV=1,
            p_CLKOP_DIV=self.clkop_div,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_CPHASE=self.clkop_div - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_DIV=self.clkos_div,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_CPHASE=self.clkos_div - 1,
            p_CLKOS_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            i_CLKI=clock,
            i_CLKFB=feedback,
            o_CLKOP=feedback,
            o_CLKOS=output,
            o_LOCK=locked,
            **ports,
        )
