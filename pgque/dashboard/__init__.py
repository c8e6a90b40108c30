"""A web page with live figures of queues and consumers (extra ``web``).

`create_app` returns a Starlette application. `pgque dashboard` serves it, and you can mount it in
your own application. One thread takes the samples for all viewers.
"""

from __future__ import annotations

from pgque._extras import need

need("starlette.applications")  # imports anyio too

from pgque.dashboard.app import create_app  # noqa: E402

__all__ = ["create_app"]
