"""A log for each tenant, at a running gateway: whose records are where, and the root log over them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interaction.tenants_world import ACME, GLOBEX, HOUSE, Tenants
from tests.interaction.world import Peers


@pytest.fixture(scope="module")
def tenants(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    running = Tenants(tmp_path_factory.mktemp("tenant-logs"), upstreams)
    try:
        yield running.start()
    finally:
        running.stop()


def test_each_record_stands_in_the_log_of_its_tenant_alone(tenants: Tenants) -> None:
    said = {person: tenants.call("desk.read", tenants.token(person)) for person in ("paul", "mia", "fiona")}
    assert {person: answer.status_code for person, answer in said.items()} == dict.fromkeys(said, 200), said["paul"].text
    tenants.call("desk.read", None)
    for person, tenant in (("paul", ACME), ("mia", GLOBEX), ("fiona", HOUSE)):
        records = tenants.log_of(tenant)
        assert {"call.start", "call.end"} <= {record.kind for record in records}
        assert {record.leaf["tenant"] for record in records if "tenant" in record.leaf} == {tenant}
        assert said[person].headers["bailiwick-decision"] in {record.id for record in records}
    own = tenants.log_of("ledger")
    assert {record.leaf.get("tenant") for record in own} == {None}
    assert {"writer.start", "policy.activate", "auth.refused"} <= {record.kind for record in own}
