"""The room that acts on the host: verifies orders, refuses what it must, kills, remembers, reports.

Only this room holds the power to act, and it takes nothing on trust: the uploader that brings
the orders may be hostile. Not here: the network (uploader) and what is worth an order (actioner).
"""
