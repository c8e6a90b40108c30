"""Measure the cost of pgque against plain PostgreSQL and against its peers: `python -m bench`."""
