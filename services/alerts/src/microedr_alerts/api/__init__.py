"""The HTTP API for analysts: one module per resource, ``app`` puts them together.

``problems`` says what refusals look like. Not here: what answers look like (``microedr_alerts.models``) and the SQL
(``microedr_alerts.store``, ``changes``, ``requests``).
"""
