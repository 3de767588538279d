"""The bus: durable, ordered topics between the services.

``api`` holds the protocol every backend keeps, ``memory``, ``sqlite`` and ``kafka`` the backends,
``topics`` the catalogue, ``partition`` the one partitioner and ``connect`` the way from a URL to a backend.
"""
