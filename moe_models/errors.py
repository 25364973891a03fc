"""The one error that bad configuration raises: what, where, and which values work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line that a user can act on."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not registered, with the nearest one that is.

    Args:
        what: the kind of thing named, as the user knows it ("attention", "cell", "scale").
        name: the unknown name.
        known: all names that work.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return ConfigError(f"unknown {what} '{name}': {hint}known: {', '.join(choices)}")


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)
