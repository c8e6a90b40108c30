"""The entry point of each process of the demo. It is run as a script, never imported.

The first line of standard input is the main process's module path, so that both processes run the
same code whatever the current folder is.
"""

import json
import os
import sys

line = b""
while not line.endswith(b"\n"):
    byte = os.read(0, 1)
    if not byte:
        sys.exit(1)
    line += byte
sys.path[:] = json.loads(line)

from pgque.demo.worker import main  # noqa: E402

sys.exit(main())
