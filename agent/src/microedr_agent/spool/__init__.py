"""The agent's durable queue: sealed frames in append-only segments, and the account of each event in them.

Only the sensor writes here (``writer``, with ``recovery`` at its start); the uploader reads what it was
promised (``reader``). ``door`` is the sensor's end of the socket between them. Formats are in
``segment`` and ``accounts``; ``disk`` is the one place that touches files.
"""
