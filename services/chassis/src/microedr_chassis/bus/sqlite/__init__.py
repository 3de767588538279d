"""The bus in one SQLite file: the embedded default, durable and shared by several processes.

``bus`` is the front, on the event loop. Behind it stand two threads with a connection each:
``writer`` commits in groups, ``reader`` reads and watches the file for what other processes do.
``log`` and ``groups`` hold the SQL, ``schema`` opens the file, ``session`` tells the living from the dead.
"""

from microedr_chassis.bus.sqlite.bus import SqliteBus

__all__ = ["SqliteBus"]
