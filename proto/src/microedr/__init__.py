"""The wire contract of microedr: what agents and services must agree on.

``v1`` holds the generated messages; the modules beside it hold the little that both ends
compute the same way: names of things (``ids``), sealed frames (``frame``), the bytes that
are signed (``signing``), record headers (``headers``) and ``limits``. No I/O anywhere.
"""
