"""`pgque worker`: consumers in processes of their own, under one supervisor.

The supervisor never imports what it runs: each process does, so that a new one has the new code. A
socket joins them. The process says on it what it is, or why it cannot run; that the supervisor's
end closes is how it is told to stop, and how it notices that the supervisor is gone. No signal is
used for that: a service manager may have sent one to all of them already, and a second one ends a
consumer in the middle of a message.

::

    supervisor.py    which processes there shall be: started, restarted, replaced, stopped
    process.py       one process as the supervisor sees it
    child.py         the same from inside
    target.py        `module:attribute` becomes a consumer
"""

from pgque.worker.supervisor import LoadError, StartError, Supervisor

__all__ = ["LoadError", "StartError", "Supervisor"]
