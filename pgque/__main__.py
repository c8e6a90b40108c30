"""`python -m pgque`, the same as `pgque`."""

from pgque.cli import main

if __name__ == "__main__":
    main()
