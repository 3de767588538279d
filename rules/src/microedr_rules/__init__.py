"""The rule language of microedr and its engine.

A rule file becomes a ``model.Rule`` around one AST (``ast``), whatever language it is written in:
``sigma`` (unmodified Sigma detections) or ``lite`` (the short form with ``match:``). ``fields`` says what
the names in a rule mean on an AgentEvent, ``interpret`` evaluates plainly and is the oracle,
``compile`` does it fast, ``ruleset`` holds what was loaded. ``check`` and ``evidence`` are for rule writers.
Nothing here does I/O but reading rule and evidence files.
"""
