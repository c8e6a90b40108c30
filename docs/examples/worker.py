"""A worker: it prints every message of the queue `jobs`, which it makes where it is missing."""

import os

import pgque

DSN = os.environ["PGQUE_DSN"]
QUEUE, NAME = "jobs", "worker"

with pgque.connect(DSN) as client:
    client.create_queue(QUEUE)
    client.subscribe(QUEUE, NAME)
    client.conn.commit()

consumer = pgque.Consumer(DSN, queue=QUEUE, name=NAME)


@consumer.on("*")
def show(message: pgque.Message) -> None:
    print(message.type, message.payload, flush=True)


consumer.start()
