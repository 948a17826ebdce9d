"""Messages of other packages without what must not be shown."""

from __future__ import annotations

import os
import re

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
LEAST = 6  # characters of a value that is taken for a secret
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redacted(text: str) -> str:
    """A message without the values of environment variables that hold secrets, and without the logins of addresses.

    >>> redacted("cannot reach http://me:hunter2@host:5000")
    'cannot reach http://...@host:5000'
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= LEAST:
            text = text.replace(value, f"[{name}]")
    return _LOGIN.sub("...", text)
