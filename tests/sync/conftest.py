"""A vendor's receiver, an endpoint that tells it, and rounds of the worker."""

from datetime import UTC, datetime, timedelta

import pytest

from app.keys.provider import read_key_ring
from app.store.database import Database, clock
from app.worker import Deliveries
from tests.conftest import newest_partners_only


@pytest.fixture
def worker(service, on_database, receiver, monkeypatch):
    """Rounds of the worker's deliveries at moments that the test chooses, for the partners of this test: others have left endpoints behind."""
    newest_partners_only(monkeypatch, "app.worker")
    ring = read_key_ring(service.settings.keys_path)

    def rounds(number=1, later=timedelta(0), allowed=None, within=15.0):
        async def job(database: Database):
            moment = clock(lambda: datetime.now(UTC) + later)
            hosts = (receiver.host,) if allowed is None else allowed
            deliveries = Deliveries(database, ring, hosts, lambda: moment, within_seconds=within)
            taken = 0
            for _ in range(number):
                taken += await deliveries.take(moment)
                await deliveries.settled()
            await deliveries.close()
            return taken

        return on_database(job, "ipt_worker")

    return rounds


@pytest.fixture
def hook(partner, receiver, service):
    """Register the receiver as an endpoint of the partner; returns the endpoint with its secret."""
    house = service.house
    allowed = house.allowed_hosts

    def register(types=("*",), url=None, **more):
        object.__setattr__(house, "allowed_hosts", (*house.allowed_hosts, receiver.host))
        return partner.post("/v1/webhook-endpoints", {"url": url or receiver.address, "event_types": list(types), **more})

    yield register
    object.__setattr__(house, "allowed_hosts", allowed)
