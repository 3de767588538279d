"""The sensor: what the kernel sees becomes sealed events in the spool.

``app`` is the whole flow; ``loader`` gets the BPF objects into the kernel, ``ring`` and ``ledger`` read
what they write, ``decode`` and ``encode`` turn samples into events, ``processes`` remembers who is who.
"""
