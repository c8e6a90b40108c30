"""`pgque worker`: consumers in separate processes under one supervisor.

The supervisor never imports its targets. Each process does, so that a new process has the new code.
A socket connects them. On it the process reports its job, or why it cannot run. When the
supervisor's end closes, the process stops: that is how it is told to stop, and how it notices that
the supervisor is gone. No signal is used for that, because a service manager may already have sent
one to all processes, and a second one would end a consumer in the middle of a message.

::

    supervisor.py    starts, restarts, replaces and stops the processes
    process.py       one process, as seen by the supervisor
    child.py         the code that runs in the process
    target.py        loads a consumer from `module:attribute`
"""

from pgque.worker.supervisor import LoadError, StartError, Supervisor

__all__ = ["LoadError", "StartError", "Supervisor"]
