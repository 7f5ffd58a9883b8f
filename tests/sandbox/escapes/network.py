"""The network, of every kind: families, types, names, and the ways to a socket that do not call socket()."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import socket

from tests.sandbox.escapes.kit import ALWAYS, BARE, ROOT_ALONE, ROOTS, P, at, attempt, raw, reached


@attempt()
def connect_to_loopback() -> None:
    """TCP to a service on this machine, as to the gateway's own address."""
    socket.create_connection(("127.0.0.1", P["tcp"]), timeout=2).close()


@attempt()
def connect_without_waiting() -> None:
    """A non-blocking connect, which leaves the handshake to the kernel."""
    client = socket.socket()
    client.setblocking(False)
    error = client.connect_ex(("127.0.0.1", P["tcp"]))
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    _arrives(client)


def _arrives(client: socket.socket) -> None:
    """Open only where somebody answers: a cage may have a network of its own, in which nobody is."""
    select.select([], [client], [], 2)
    error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    client.getpeername()


@attempt()
def connect_by_the_first_data() -> None:
    """TCP fast open: sendto with MSG_FASTOPEN instead of connect."""
    client = socket.socket()
    client.settimeout(2)
    try:
        client.sendto(b"x", 0x20000000, ("127.0.0.1", P["tcp"]))
    except BlockingIOError:
        _arrives(client)  # on its way


@attempt(machine=True)
def connect_by_many_paths() -> None:
    """MPTCP."""
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    client.settimeout(2)
    client.connect(("127.0.0.1", P["tcp"]))


@attempt(machine=True)
def connect_by_ipv6() -> None:
    """TCP to a mapped address of loopback."""
    client = socket.socket(socket.AF_INET6)
    client.settimeout(2)
    client.connect(("::ffff:127.0.0.1", P["tcp"]))


@attempt()
def send_by_udp() -> None:
    """A datagram to loopback, as DNS tunnels."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", P["udp"]))


@attempt(machine=True)
def send_by_udp_lite() -> None:
    """UDP-Lite, which filters for UDP miss."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136).close()


@attempt(machine=True)
def send_by_udp6() -> None:
    """A datagram from an IPv6 socket."""
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("::ffff:127.0.0.1", P["udp"]))


@attempt()
def listen_on_a_port() -> None:
    """A service for somebody outside to connect to."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


@attempt()
def bind_a_datagram_port() -> None:
    """A port that datagrams come in at."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 0))


@attempt(ROOTS)
def forge_packets() -> None:
    """A raw socket."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@attempt(ROOTS, machine=True)
def read_all_packets() -> None:
    """A packet socket."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


@attempt(machine=True)
def speak_with_the_routing() -> None:
    """Netlink, route: where 99 bugs of the kernel were."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


@attempt(machine=True)
def speak_with_the_packet_filter() -> None:
    """Netlink, netfilter."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()


@attempt(machine=True)
def speak_with_the_audit() -> None:
    """Netlink, audit: records that somebody else reads."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9).close()


@attempt(BARE, machine=True)
def use_the_kernels_cryptography() -> None:
    """AF_ALG, a container escape of 2026."""
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()


@attempt(BARE, machine=True)
def speak_with_the_host() -> None:
    """AF_VSOCK, which no network namespace closes."""
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@attempt(ALWAYS, machine=True)
def use_a_rare_family() -> None:
    """Whichever rare family the kernel has: X.25, CAN, TIPC, RDS, SMC, Bluetooth, NFC, QIPCRTR, XDP."""
    for family in (3, 4, 5, 9, 11, 15, 19, 21, 26, 29, 30, 31, 35, 39, 41, 42, 43, 44, 45):
        for kind in (1, 2, 3, 5):
            try:
                return socket.socket(family, kind).close()
            except OSError:
                continue
    raise OSError(97, "none here")


@attempt(machine=True)
def ping() -> None:
    """A ping socket, where the system allows it to everybody."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except PermissionError as error:
        if P["caged"]:
            raise
        raise OSError(97, "not allowed to this group") from error


@attempt()
def resolve_a_name() -> None:
    """getaddrinfo; outside it at least gets as far as a socket."""
    try:
        socket.getaddrinfo("localhost", 80)
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except socket.gaierror as error:
        raise OSError(1, "no resolver") from error


@attempt()
def connect_to_a_named_socket() -> None:
    """A Unix socket by its path, as a container engine's or an agent's is."""
    socket.socket(socket.AF_UNIX).connect(at("stream"))


@attempt()
def connect_to_a_named_packet_socket() -> None:
    """The same, of type SEQPACKET."""
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(at("packet"))


@attempt()
def send_to_a_named_socket() -> None:
    """A Unix datagram by path, as to the system's log."""
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", at("datagram"))


@attempt()
def connect_to_an_abstract_socket() -> None:
    """A Unix socket by its abstract name."""
    socket.socket(socket.AF_UNIX).connect("\0" + P["abstract"])


@attempt()
def send_to_an_abstract_socket() -> None:
    """A Unix datagram by abstract name."""
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\0" + P["abstract"] + "-datagram")


@attempt()
def take_an_abstract_name() -> None:
    """Bind an abstract name that somebody outside might connect to."""
    socket.socket(socket.AF_UNIX).bind("\0" + P["mark"])


@attempt()
def send_from_a_pair_to_a_path() -> None:
    """A datagram end of a pair needs no socket() to reach a named socket."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.sendto(b"x", at("datagram"))


@attempt()
def send_from_a_pair_to_an_abstract_name() -> None:
    """The same to an abstract name."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.sendto(b"x", "\0" + P["abstract"] + "-datagram")


@attempt()
def connect_an_end_of_a_pair() -> None:
    """connect() of a pair's datagram end to a named socket."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.connect(at("datagram"))


@attempt()
def bind_an_end_of_a_pair() -> None:
    """bind() of a pair's stream end, so that others may find it."""
    left, _ = socket.socketpair()
    left.bind("\0" + P["mark"] + "-pair")


@attempt()
def make_a_pair_of_packets() -> None:
    """A pair of type SEQPACKET, whose ends can be sent elsewhere as well."""
    socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0].close()


@attempt(machine=True)
def make_a_pair_of_another_family() -> None:
    """socketpair of TIPC, where there is one; outside, any answer but a refusal shows that the call got through."""
    try:
        socket.socketpair(30, socket.SOCK_STREAM)[0].close()
    except OSError as error:
        if error.errno in (1, 13):
            raise


@attempt(BARE, machine=True)
def use_the_ring() -> None:
    """io_uring, which makes sockets without socket(); nonsense arguments."""
    reached(lambda: raw(425, 425, 1, None))


@attempt(BARE, machine=True)
def make_a_working_ring() -> None:
    """io_uring_setup that succeeds where it may."""
    parameters = ctypes.create_string_buffer(120)
    os.close(raw(425, 425, 4, parameters))


@attempt(ROOT_ALONE, machine=True)
def configure_an_interface() -> None:
    """An ioctl of the routing: the flags of lo, set to what they are."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", b"lo", 0)
        fcntl.ioctl(any_socket, 0x8914, fcntl.ioctl(any_socket, 0x8913, asked))


@attempt()
def pass_a_descriptor_out() -> None:
    """SCM_RIGHTS over a named socket, as a way to hand something to an accomplice."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(at("stream"))
    client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])


@attempt(machine=True)
def write_to_the_systems_log() -> None:
    """/dev/log, by syslog."""
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect("/dev/log")


@attempt(machine=True)
def ask_the_service_manager() -> None:
    """The system bus, or systemd's own socket."""
    for path in (
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
    ):
        if os.path.exists(path):
            return socket.socket(socket.AF_UNIX).connect(path)
    raise OSError(2, "none of them here")
