"""`pgque top`: queues and consumers as they move, in a terminal (extra ``top``).

`source` asks the database, in threads; `history` remembers what the samples said; `app` takes them
in turn and shows them on its screens: `board` (all), `queue`, `consumer`, `message`. `columns` and
`table` are the lists on them, `states` the words for what is wrong.
"""
