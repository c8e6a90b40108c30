"""Logs: the loggers of pgque, and the fields that their records carry beside the text.

Everything is logged with `logging` below the logger ``pgque``. A record has its fields as
attributes, where ``logging`` puts what is given as ``extra``, so that a formatter can write them
apart. Which of them a record has depends on what it is about; those that it lacks are not there.
"""

from __future__ import annotations

from typing import TypedDict


class Fields(TypedDict, total=False):
    """Fields of a record.

    ``queue``        the queue's name
    ``consumer``     the consumer's name; of a cooperative one the group's
    ``subconsumer``  name of the member of a cooperative group
    ``batch_id``     the batch, int
    ``msg_id``       the message, int; the same at every delivery
    ``type``         the message's type
    ``attempt``      which delivery of the message this is, int; 1 is the first
    ``messages``     how many messages were handled, sent again or deleted, int
    ``failed``       how many of them failed, int
    ``seconds``      how long it took, float
    ``error``        what went wrong, the text of the error
    ``retry_in``     seconds until it is tried again, float
    ``worker``       name of a process of ``pgque worker``
    ``path``         file or folder that ``pgque worker --reload`` watches
    """

    queue: str
    consumer: str
    subconsumer: str
    batch_id: int
    msg_id: int
    type: str
    attempt: int
    messages: int
    failed: int
    seconds: float
    error: str
    retry_in: float
    worker: str
    path: str
