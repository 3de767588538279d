"""Fixtures that tests of several rooms ask for by name."""

pytest_plugins = ("support.kafka",)
