"""URIs of MLflow's stores: where runs go, and what of a URI, or of a message that holds one, can be shown."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path

DEFAULT_DATABASE = "mlflow.db"
FILE_KINDS = ("sqlite", "file")
"""Kinds of URI that name a file: they hold no password, and an `@` is part of a name."""
HARMLESS = ("charset", "connect_timeout", "driver", "sslmode", "timeout")
"""Settings of a URI that can be shown. Any other may be a secret: each database driver has names of its own."""


def tracking_uri() -> str:
    """Return where runs go: MLFLOW_TRACKING_URI, or the database `mlflow.db` in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DEFAULT_DATABASE}"


def split_credentials(uri: str) -> tuple[str, str]:
    """Return the user and password that a URI holds, and the URI without them.

    All up to the last `@` is theirs: a password may hold what would otherwise end a server's name.
    """
    scheme, mark, rest = uri.partition("://")
    if _names_a_file(uri):
        return "", uri
    held, _, place = rest.rpartition("@")
    return held, f"{scheme}{mark}{place}"


def holds_secret(uri: str) -> bool:
    """Return whether a URI has a password, or a setting that may be one."""
    held, place = split_credentials(uri)
    return ":" in held or public(place) != place


def public(text: str) -> str:
    """Return a URI, or a message that holds some, without users, passwords and other secrets: fit to be shown."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S*", _without_secrets, text)
    return re.sub(r"(?i)\b(\w*(?:password|passwd|pwd|token|secret)\w*)=[^&\s]*", r"\1=...", text)


def print_traceback(error: Exception) -> None:
    """Print an error's traceback on standard error, as Python does, and none of the secrets of any URI in it."""
    print(public("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def _names_a_file(uri: str) -> bool:
    return uri.startswith(tuple(f"{kind}:///" for kind in FILE_KINDS))


def _without_secrets(uri: re.Match[str]) -> str:
    place = split_credentials(uri[0])[1]
    if _names_a_file(place):
        return place
    return re.sub(rf"([?&;](?!(?:{'|'.join(HARMLESS)})=)[^=&;]+)=[^&;]*", r"\1=...", place)


def is_server(uri: str) -> bool:
    """Return whether MLflow talks to a server of its own there, over HTTP."""
    return uri.partition("://")[0] in ("http", "https")


def database_file(uri: str) -> Path:
    """Return the file of a SQLite URI: `sqlite:////absolute` or `sqlite:///relative`."""
    return Path(uri.partition("://")[2].removeprefix("/").partition("?")[0])
