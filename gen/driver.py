"""Driver in C and page of registers, from the description that the hardware is made of."""

from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault

__all__ = ["FILES", "driver_files"]

FILES = ("bitwright.h", "bitwright.c", "registers.md")
"""What is written: the header, the driver, and the page of registers."""


def driver_files() -> dict[str, str]:
    """Contents of :data:`FILES`, by name.

    The C is C99 and includes nothing but `stdint.h`. All engines have the same registers.
    """
    # It makes C and Markdown, in which there is nothing to escape, of tables that are our own.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    facts = {
        "registers": REGISTERS,
        "counters": COUNTERS,
        "counter_base": COUNTER_BASE,
        "faults": list(Fault),
        "id_value": ID_VALUE,
        "version": version("bitwright"),
        "hex": lambda value: f"0x{value:02x}",
    }
    return {name: environment.get_template(f"{name}.jinja").render(facts) for name in FILES}
