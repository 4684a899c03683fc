"""Remove secrets from URLs before they are printed, logged or sent."""

from __future__ import annotations

import re

# Path turns `https://` into `https:/`.  In `models:/emlnet@champion` there is no user.
SECRETS = re.compile(
    r"(?P<scheme>\b(?:[a-z][a-z0-9+.-]*://|https?:/))(?:[^\s/]*@)?(?P<place>[^\s?'\"]*)"
    r"(?:\?[^\s#'\"]*)?",
    re.IGNORECASE,
)


def public_url(text: object) -> str:
    """Remove user, password and query (it may hold a signature) from each URL in a text."""
    return SECRETS.sub(r"\g<scheme>\g<place>", str(text))
