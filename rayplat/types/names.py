"""The rules for names."""

from __future__ import annotations

import re

from rayplat.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_EMAIL = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}@[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)*")
_VERSION_LIKE = re.compile(r"v?[0-9]+", re.IGNORECASE)


def check_name(kind: str, name: str) -> str:
    """``name`` itself, or `InvalidName`: lower case, digits, ``. _ -``, 1 to 63 characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        shown = repr(name if len(str(name)) <= 80 else str(name)[:77] + "...")
        raise InvalidName(kind, f"{shown} is no valid name: 1 to 63 of a-z 0-9 . _ - beginning with a letter or digit")
    return name


def check_alias(alias: str) -> str:
    """``alias`` itself, or `InvalidName` where it would shadow a version number or a reserved word, or has a dot."""
    check_name("alias", alias)
    if alias == "latest" or _VERSION_LIKE.fullmatch(alias):
        raise InvalidName("alias", f"{alias!r} would shadow a version number; choose a word such as 'champion'")
    if "." in alias:
        raise InvalidName("alias", f"{alias!r} holds a dot, which MLflow does not permit in an alias; use '-'")
    return alias


def check_principal(name: str) -> str:
    """``name`` itself, or `InvalidName`: a name as everywhere, or one like an e-mail address, in lower case; not
    ``rayplat``, which is the platform itself."""
    if name == "rayplat":
        raise InvalidName("principal", "'rayplat' is the platform itself; choose another name")
    if isinstance(name, str) and "@" in name and ".." not in name and len(name) <= 255 and _EMAIL.fullmatch(name):
        return name
    return check_name("principal", name)
