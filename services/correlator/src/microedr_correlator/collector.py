"""Python's cycle collector, told that millions of small objects live here for a quarter of an hour."""

import gc

_YOUNG = 50_000
_MIDDLE = 20
_OLD = 100


def relax_collector() -> None:
    """Look for cycles less often, in the whole process.

    Windows hold no cycles: reference counts free them. At Python's default of 700 objects the collector
    took a third of the correlator's time with 1000 hosts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
