"""A real PostgreSQL server that belongs to this program (extra ``embedded``).

For development and tests: the binaries come in a wheel, the server listens on a Unix
socket only and ends with the program that started it, however that program ends.

    with Server() as server:
        install(server.dsn)
"""

from pgque.embedded.binaries import VERSIONS, EmbeddedError
from pgque.embedded.folder import default_data_dir
from pgque.embedded.server import Server

__all__ = ["VERSIONS", "EmbeddedError", "Server", "default_data_dir"]
