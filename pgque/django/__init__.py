"""Django: the ORM on the connection of a client (extra ``django``)."""

from pgque.django.orm import orm_on

__all__ = ["orm_on"]
