"""Logs: the loggers of pgque, and the fields of their records.

pgque logs with `logging`, below the logger ``pgque``. The fields are passed as ``extra``, so they
are attributes of the record, and a formatter can write them separately. A record has only the
fields that apply to it; the others are not set.
"""

from __future__ import annotations

from typing import TypedDict


class Fields(TypedDict, total=False):
    """Fields of a record.

    ``queue``        the queue's name
    ``consumer``     the consumer's name, which for a member is the name of its group
    ``subconsumer``  name of the member of a cooperative group
    ``batch_id``     the batch, int
    ``msg_id``       the message, int; the same at every delivery
    ``type``         the message's type
    ``attempt``      number of this delivery of the message, int; 1 is the first
    ``messages``     number of messages handled, sent again or deleted, int
    ``failed``       number of them that failed, int
    ``seconds``      duration, float
    ``error``        the text of the error
    ``retry_in``     seconds until the next attempt, float
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
