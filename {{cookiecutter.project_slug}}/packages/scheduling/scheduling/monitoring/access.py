"""Who may read the metrics, and the names of schedules and hosts."""

from ipaddress import IPv6Address, ip_address, ip_network

from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from scheduling.conf import conf


def may_read(request: HttpRequest) -> bool:
    """Whether a request has the METRICS_TOKEN, or comes from one of the METRICS_NETWORKS.

    The address of the connection counts, not a header: anybody can write a header.
    """
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    token = conf.METRICS_TOKEN
    if token and scheme.lower() == "bearer" and constant_time_compare(given, token):
        return True
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # a Unix socket has no address
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return any(address in ip_network(network.strip()) for network in conf.METRICS_NETWORKS)
