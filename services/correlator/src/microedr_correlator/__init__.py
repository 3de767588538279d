"""Keeps a window of each host, raises alerts from matches and proves that kills had their effect.

``window`` (with ``processes`` and ``destinations``) is the memory of a host, ``book`` decides which alert a
match belongs to, ``evidence`` and ``summary`` write the alert, ``waiting`` holds matches until the window has
seen their event, ``observed`` joins kills with exits. All of these are pure. ``partition`` ties them
together, ``replay`` says where to begin after a restart, ``consumer`` and ``app`` do the I/O.
"""
