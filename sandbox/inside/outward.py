"""What a cage whose code may reach the gateway's proxy must not reach, tried; and that the proxy is reached.

Expects PARAMS; prints one JSON object: attempt → "open" or the errno's name.  Standard library only, Python 3.9.
"""

# ruff: noqa: PTH118  runs in the cage, where every import costs
from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMS: dict[str, Any] = globals().get("PARAMS", {})
"""folder, port, abstract, caged: set by `sandbox/layers.py` in front of this text."""
PROXY, GREETING = 3128, b"the proxy"


def connect_to_a_listener_outside() -> None:
    """On the machine's loopback, which every process of the machine reaches."""
    socket.create_connection(("127.0.0.1", PARAMS["port"]), timeout=2).close()


def connect_by_another_name_of_the_machine() -> None:
    """Whatever address reaches this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(("0.0.0.0", PARAMS["port"]))  # noqa: S104  as a destination: this machine


def send_by_udp() -> None:
    """As a name server is asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", PARAMS["port"]))


def listen_for_others() -> None:
    """A server of one's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)


def connect_to_a_named_socket() -> None:
    """By its path."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.path.join(PARAMS["folder"], "stream"))


def connect_to_an_abstract_socket() -> None:
    """By its name."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + PARAMS["abstract"])


def talk_to_the_hypervisor() -> None:
    """AF_VSOCK."""
    socket.socket(40, socket.SOCK_STREAM).close()


def use_the_kernels_cryptography() -> None:
    """AF_ALG."""
    socket.socket(38, socket.SOCK_SEQPACKET).close()


def change_the_network() -> None:
    """AF_NETLINK: interfaces and routes."""
    socket.socket(16, socket.SOCK_RAW).close()


def another_stream() -> None:
    """MPTCP, which calls itself a stream as TCP does."""
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()


def find_a_route() -> None:
    """To a name server that everybody has heard of; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(0)
        client.connect(("192.0.2.1", 53))


_ATTEMPTS: tuple[Callable[[], None], ...] = (
    connect_to_a_listener_outside, connect_by_another_name_of_the_machine, send_by_udp, listen_for_others,
    connect_to_a_named_socket, connect_to_an_abstract_socket, talk_to_the_hypervisor, use_the_kernels_cryptography,
    change_the_network, another_stream, find_a_route,
)  # fmt: skip


def reach_the_proxy() -> bytes:
    """What the gateway says where its proxy is to be found."""
    with socket.create_connection(("127.0.0.1", PROXY), timeout=10) as client:
        return client.recv(64)


def _outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except BlockingIOError:
        return "open"  # under way
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "open"


def main() -> None:
    """Try everything."""
    found: dict[str, Any] = {attempt.__name__: _outcome(attempt) for attempt in _ATTEMPTS}
    if PARAMS["caged"]:
        found["proxy"] = reach_the_proxy().decode()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
