"""What stands before the gateway for clients that cannot authenticate hides nothing from it, and sticks nobody to a replica."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.conformance.shim import authorized

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def replica(heard: list[bytes], size: int) -> Iterator[int]:
    """Keeps every request as the bytes that came, each `size` of them, and answers it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def serve() -> None:
            connection, _ = listening.accept()
            connection.settimeout(30)
            with connection, connection.makefile("rb") as came:
                while data := came.read(size):
                    heard.append(data)
                    connection.sendall(ANSWER)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(30)


@pytest.mark.parametrize(
    "body",
    [
        b"content-length: 3\r\n\r\n{ }",
        b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\n{\r\n2\r\n }\r\n0\r\n\r\n",
        b"\r\n",
    ],
    ids=["length", "chunks", "none"],
)
def test_a_request_arrives_as_it_was_said_with_one_more_line(body: bytes) -> None:
    line, rest = b"POST /mcp/x HTTP/1.1", b"Host: evil.example.com\r\noRigin:  http://evil.example.com \r\nx-a: \xe4\r\n" + body
    expected = line + b"\r\nauthorization: Bearer t0ken\r\n" + rest
    one: list[bytes] = []
    two: list[bytes] = []
    with ExitStack() as stack:
        ports = [stack.enter_context(replica(heard, len(expected))) for heard in (one, two)]
        with authorized(ports, lambda: "t0ken") as port, socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            for _ in range(4):  # on one connection, as a client does that keeps it
                client.sendall(line + b"\r\n" + rest)
                answer = b""
                while len(answer) < len(ANSWER):
                    answer += client.recv(100)
                assert answer == ANSWER
    assert (one, two) == ([expected] * 2, [expected] * 2)
