"""Addresses without what may be secret, for everything that is printed, logged or sent."""

from __future__ import annotations

import re

# A path object turns `https://` into `https:/`; `models:/emlnet@champion` holds no user.
SECRETS = re.compile(
    r"(?P<scheme>\b(?:[a-z][a-z0-9+.-]*://|https?:/))(?:[^\s/]*@)?(?P<place>[^\s?'\"]*)"
    r"(?:\?[^\s#'\"]*)?",
    re.IGNORECASE,
)


def public_url(text: object) -> str:
    """Remove user, password and query (where signatures are) from each URL in a text."""
    return SECRETS.sub(r"\g<scheme>\g<place>", str(text))
