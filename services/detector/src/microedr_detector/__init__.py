"""The detector: takes events from the bus, evaluates every rule on each, publishes matches.

``app`` is the service, ``consumer`` the whole flow of a record, ``matches`` what is published. The rules
themselves are microedr-rules. It keeps no state but which sequences it has seen: any number of
detectors share the work, and one that dies loses nothing that the next does not do again.
"""
