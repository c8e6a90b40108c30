"""`pgque top`: live figures of queues and consumers in a terminal (extra ``top``).

`source` queries the database, in threads. `history` keeps what earlier samples showed. `app` takes
samples and shows them on its screens: `overview` (all queues), `queue`, `consumer` and `message`.
The screens use the application through `base`. `columns` and `table` draw the lists.
"""
