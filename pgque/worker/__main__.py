"""`python -m pgque.worker`: one process of a worker, started by the supervisor."""

import sys

from pgque.worker.child import main

if __name__ == "__main__":
    sys.exit(main())
