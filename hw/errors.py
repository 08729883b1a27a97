"""The exceptions that a user can cause; the command line prints them without a traceback."""

__all__ = ["BitwrightError", "ConfigError", "printable"]


class BitwrightError(Exception):
    """An error in what the user gave: the message names the thing, its value and what is allowed."""


class ConfigError(BitwrightError):
    """A configuration key with a value that is not allowed.

    Parameters
    ----------
    key
        Path of the offending key.
    value
        What was given.
    allowed
        What is allowed, as a phrase that completes "must be …".
    """

    def __init__(self, key: str, value: object, allowed: str):
        self.key = key
        self.value = value
        self.allowed = allowed
        super().__init__(
            f"{printable(key, 300)} = {printable(_shown(value), 200)}: must be {printable(allowed, 2000)}"
        )


def _shown(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"  # thousands of digits, or of brackets


def printable(text: str, limit: int = 400) -> str:
    """Text from a file, safe to print on one line."""
    if len(text) <= limit and text.isprintable():
        return text
    text = "".join(c if c.isprintable() else "�" for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
