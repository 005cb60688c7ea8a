"""How jobs reach what does them: in this process, or in children that can be lost without losing anything else."""

from typing import TYPE_CHECKING

from bench.lazy import names

if TYPE_CHECKING:
    from bench.pipeline.executors.choose import EXECUTORS as EXECUTORS
    from bench.pipeline.executors.crew import LOCAL as LOCAL
    from bench.pipeline.executors.crew import Crew as Crew
    from bench.pipeline.executors.protocol import groups as groups
    from bench.pipeline.executors.trial import try_plugins as try_plugins

__getattr__ = names(
    __name__,
    {
        "EXECUTORS": "bench.pipeline.executors.choose",
        "LOCAL": "bench.pipeline.executors.crew",
        "Crew": "bench.pipeline.executors.crew",
        "groups": "bench.pipeline.executors.protocol",
        "try_plugins": "bench.pipeline.executors.trial",
    },
)
