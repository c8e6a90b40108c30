"""Connection strings as URLs, the form that SQLAlchemy, Django's tools and shells all accept."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict


def to_url(dsn: str, **changes: Any) -> str:
    """Return a connection string as a URL that begins with ``postgresql:``.

    :param dsn: libpq connection string, in keywords or a URL.
    :param changes: parameters to set, by libpq's names; None removes one.
    :raises psycopg.ProgrammingError: if ``dsn`` is not a connection string.
    """
    # Merged here because conninfo_to_dict ignores a keyword that is None.
    parts = conninfo_to_dict(dsn) | changes
    parts = {name: str(value) for name, value in parts.items() if value not in (None, "")}
    authority = ""
    if user := parts.pop("user", None):
        secret = parts.pop("password", None)
        authority = quote(user, safe="") + (f":{quote(secret, safe='')}" if secret else "") + "@"
    # A socket's folder or a list of hosts stays in the query part, where it is easier to read.
    if _is_one_host(parts.get("host", "")):
        host, port = parts.pop("host"), parts.pop("port", None)
        authority += f"[{host}]" if ":" in host else host
        authority += f":{port}" if port else ""
    dbname = quote(parts.pop("dbname", ""), safe="")
    query = urlencode(parts, safe="/", quote_via=quote)  # libpq reads a "+" as a plus sign
    return f"postgresql://{authority}/{dbname}" + (f"?{query}" if query else "")


def _is_one_host(host: str) -> bool:
    return bool(host) and not set(host) & set("/,@%[]")
