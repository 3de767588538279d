"""The microedr agent: three processes that see, send and act on one host.

``sensor`` turns kernel samples into sealed frames in the spool, ``uploader`` sends them to
ingest, ``responder`` verifies and carries out orders and, in ``microedr-agent run``, looks
after the other two. They speak through ``ipc``; ``config`` reads agent.yaml for all of them.
"""

__version__ = "0.1.0"
