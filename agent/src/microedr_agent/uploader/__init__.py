"""The uploader: sends what the spool promises, and is the only process of the agent with a network.

``app`` starts it and gives up what it does not need; ``stream`` is one connection to ingest, ``window`` the
rules of it; ``links`` lead to the sensor and the responder. It can read the spool and nothing else of the
host, and what it carries for the responder is signed: taken over, it can withhold and delay, not act.
"""
