"""Whether something listens at an address, found out in seconds and told in one line."""

import re
import socket

from rekd_hloc.cluster.engine import ClusterError

TIMEOUT_S = 5.0


def check_reachable(program: str, address: str, remedy: str, timeout_s: float = TIMEOUT_S) -> None:
    """Refuse an address at which nothing listens.

    Args:
        program: that should.
        address: ``HOST:PORT``.
        remedy: what to do.
        timeout_s: to wait for an answer.

    Raises:
        ClusterError: it is no address, or nothing answers there.
    """
    found = re.fullmatch(r"\[?(?P<host>[^\[\]]+)\]?:(?P<port>\d{1,5})/?", address)
    if found is None:
        raise ClusterError(f"address of {program} must be like HOST:6379, got {address!r}")
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout_s).close()
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        raise ClusterError(f"no {program} at {address} ({reason}); {remedy}") from error
