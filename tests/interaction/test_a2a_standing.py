"""An agent's stream in a whole gateway, when the bundle on disk changes under it."""

from __future__ import annotations

from pathlib import Path

from tests.interaction.test_kills import end_of, prepare, slow_upstream, under_way
from tests.interaction.world import Peers, new_trace


def test_a_stream_from_an_agent_ends_when_the_bundle_no_longer_grants_it(upstreams: Peers, tmp_path: Path) -> None:
    trace = new_trace()
    with slow_upstream() as slow:
        gateway = prepare(tmp_path, upstreams, slow)
        grants = tmp_path / "policies" / "grants" / "wardens.csv"
        try:
            gateway.start()
            with under_way(gateway, slow, "a2a", gateway.token(), trace) as call:
                grants.write_text("".join(line for line in grants.read_text().splitlines(True) if "a2a:hermit" not in line))
                seen = call.result(30)
            assert slow.dropped.get(timeout=30) == trace
            assert seen[0] == "200"  # it had begun
            assert "event: error" in seen
            assert any(
                '"code":-32000,"message":"There is no such agent."' in line for line in seen
            )  # as to whoever may not know of it
            assert end_of(gateway, trace).leaf["outcome"]["status"] == "interrupted"
        finally:
            gateway.stop()
