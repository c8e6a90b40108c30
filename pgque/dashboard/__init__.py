"""A page that shows queues and consumers as they move (extra ``web``).

`create_app` returns a Starlette application: `pgque dashboard` serves it, and it can be mounted in
an application of yours. One thread takes the samples for all who look.
"""

from __future__ import annotations

try:
    from pgque.dashboard.app import create_app
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"starlette", "anyio"}:
        raise
    raise ModuleNotFoundError(
        f"{error.name} is missing: pip install 'pgque[web]'", name=error.name
    ) from error

__all__ = ["create_app"]
