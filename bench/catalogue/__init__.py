"""The catalogue: what there is, what can run here, what it needs, and whether it keeps the rules."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.catalogue import conformance as conformance
    from bench.catalogue import doctor as doctor
    from bench.catalogue import listing as listing
    from bench.catalogue import needs as needs
    from bench.catalogue import start as start

__getattr__ = rooms(__name__)
