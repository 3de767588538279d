"""Tests that are functions, made once per rule: generated code calls them by name."""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network

from microedr_rules import access
from microedr_rules.ast import Place


def network_of_packed(network: IPv4Network | IPv6Network) -> Callable[[bytes], bool]:
    """A function that tells whether packed bytes are an address in ``network``."""
    size, first, mask = len(network.network_address.packed), int(network.network_address), int(network.netmask)
    from_bytes = int.from_bytes
    return lambda packed: len(packed) == size and from_bytes(packed, "big") & mask == first


def network_of_text(network: IPv4Network | IPv6Network) -> Callable[[str], bool]:
    """A function that tells whether a text is an address in ``network``."""
    inside = network_of_packed(network)

    def within(text: str) -> bool:
        packed = access.packed_address(text)
        return packed is not None and inside(packed)

    return within


def _same_as(placed: Callable[[str, str], bool]) -> Callable[[tuple[str, ...], tuple[str, ...]], bool]:
    return lambda texts, others: any(other != "" and placed(text, other) for text in texts for other in others)


SAME_AS = {
    Place.WHOLE: _same_as(lambda text, other: text == other),
    Place.INSIDE: _same_as(lambda text, other: other in text),
    Place.START: _same_as(lambda text, other: text.startswith(other)),
    Place.END: _same_as(lambda text, other: text.endswith(other)),
}
"""Whether one of the first texts stands so to one of the others; an empty one says nothing."""
