"""Decides which containment orders are given, and signs them: the only holder of the key that agents obey.

A service of its own so that a hole in the API or the detector is not a way to order anything.
"""
