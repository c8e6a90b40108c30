"""Django in a handler: its connection is the client's for a block (extra ``django``).

    @consumer.on("order.placed")
    def bill(message, client):
        with orm_on(client):
            Bill.objects.create(order_id=message.json()["order"])

What the ORM writes is part of the client's transaction, so it is committed with the ack and happens
exactly once. The block is to Django what ``transaction.atomic()`` is: ``atomic()`` inside of it is
a savepoint, and nothing commits, rolls back or closes the connection.
"""

from pgque.django.orm import orm_on

__all__ = ["orm_on"]
