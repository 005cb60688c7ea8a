"""Our scorers against the original programs, on the same weights and pictures: ``nox -s oracles`` (docs/oracles.md).

The originals of HPS, ImageReward, PickScore and the aesthetic head need old libraries and live in an environment of
their own; ``workers/`` holds the small scripts that run there, JSON lines in and out. Not part of the package.
"""
