"""Pictures, records and features as they are kept, and the index that is made of them."""

from typing import TYPE_CHECKING

from bench.lazy import rooms
from bench.store.store import Store

if TYPE_CHECKING:
    from bench.store import commit as commit
    from bench.store import index as index
    from bench.store import pictures as pictures

__all__ = ["Store"]
__getattr__ = rooms(__name__)
