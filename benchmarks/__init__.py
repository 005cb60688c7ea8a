"""Speed, as ratios of things timed in turn: ``nox -s perf`` (docs/perf.md). Not part of the package, and not tests."""
