"""Python's cycle collector, told that this process makes many small objects and no cycles of them."""

import gc

_YOUNG = 50_000
_MIDDLE = 20
_OLD = 100


def relax_collector() -> None:
    """Look for cycles less often, in the whole process.

    Messages, records and windows hold no cycles: reference counts free them. At Python's default of 700
    objects the collector took a third of the correlator's time with 1000 hosts, and a quarter of ingest's.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
