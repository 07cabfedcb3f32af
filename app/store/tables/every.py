"""All tables, imported in one place so that the metadata is whole."""

from app.store.tables import caseload, door, groups, installation, inventory, outcomes, people, protection, record, sync, webhooks, work, workflow
from app.store.tables.frame import SHARED_TABLES, metadata

__all__ = [
    "SHARED_TABLES",
    "caseload",
    "door",
    "groups",
    "installation",
    "inventory",
    "metadata",
    "outcomes",
    "people",
    "protection",
    "record",
    "sync",
    "webhooks",
    "work",
    "workflow",
]
