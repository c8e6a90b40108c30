"""What pgque costs, beside plain PostgreSQL and beside its peers: `python -m bench`."""
