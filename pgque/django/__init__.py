"""Django in a handler: the ORM uses the client's connection within a block (extra ``django``).

    @consumer.on("order.placed")
    def bill(message, client):
        with orm_on(client):
            Bill.objects.create(order_id=message.json()["order"])

The ORM's writes are part of the client's transaction. They are committed with the ack, so they take
effect exactly once. For Django the block acts like ``transaction.atomic()``: ``atomic()`` inside it
is a savepoint, and Django cannot commit, roll back or close the connection.
"""

from pgque.django.orm import orm_on

__all__ = ["orm_on"]
