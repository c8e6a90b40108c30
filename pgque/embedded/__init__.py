"""A real PostgreSQL server that belongs to this program (extra ``embedded``).

For development and tests. The binaries are in a wheel. The server listens only on a Unix socket,
and ends with the program that started it, even if that program crashes.

    with Server() as server:
        install(server.dsn)
"""

from pgque.embedded.binaries import VERSIONS, EmbeddedError
from pgque.embedded.folder import default_data_dir
from pgque.embedded.server import Server

__all__ = ["VERSIONS", "EmbeddedError", "Server", "default_data_dir"]
