"""``microedr up``, the whole system on one machine, and the command line beside it.

``up`` composes the services and the agent; ``commands`` hold what a person types; ``client``
speaks to the API. No detection, storage or response is done here.
"""
