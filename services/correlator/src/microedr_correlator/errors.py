"""The correlator raises no errors of its own: ``microedr_chassis.errors`` has the two that a consumer needs.

* DeadLetterError         a record that can never be consumed: ``undecodable`` or ``bad_headers``
* RetryLaterError         publishing took too long; the runner flushes again
"""
