"""A dress rehearsal of the way with real weights, on tiny random ones: ``nox -s rehearsal`` (docs/weights.md).

Not part of the package, and not tests.
"""
