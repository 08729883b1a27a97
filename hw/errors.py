"""The exceptions that a user can cause; the command line prints them without a traceback."""

__all__ = ["BitwrightError", "ConfigError"]


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
        super().__init__(f"{key} = {value!r}: must be {allowed}")
