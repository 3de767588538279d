"""Takes frames from agents over mutual TLS, checks them, and acks what is durable on the bus.

``app`` is the service, ``server`` the gRPC door, ``servicer`` admits streams, ``stream`` runs one of
them; ``frames`` and ``peers`` decide what is good, without I/O. ``actions`` and ``relay`` carry orders
down and results up, ``sessions`` tells the others which hosts are connected, ``outlet`` publishes both.
"""
