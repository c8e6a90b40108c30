"""A page that shows queues and consumers as they move (extra ``web``).

`create_app` returns a Starlette application: `pgque dashboard` serves it, and it can be mounted in
an application of yours. One thread takes the samples for all who look.
"""

from __future__ import annotations

from pgque._extras import need

need("starlette.applications")  # which imports anyio too

from pgque.dashboard.app import create_app  # noqa: E402

__all__ = ["create_app"]
