"""All tables, imported in one place so that the metadata is whole."""

from app.store.tables import door, inventory, people, record, work
from app.store.tables.frame import SHARED_TABLES, metadata

__all__ = ["SHARED_TABLES", "door", "inventory", "metadata", "people", "record", "work"]
