"""Networks that come from outside: from a file, from another package, in a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bench
from bench import extractors, registry
from bench.errors import PrerequisiteError, UsageError
from bench.extractors.protocol import ASKS, asked
from tests.support.small import SUITE, small

NETS = '''
import numpy as np
from bench import extractor

@extractor("mean-colour", role="dino", weights="scale.txt", licence="mine")
class MeanColour:
    """The mean colour of a crop."""

    dim = 3

    def __init__(self, found, device):
        self.scale = float(found.path.read_text())

    def embed(self, crops):
        return np.stack([self.scale * crop.mean((0, 1)) for crop in crops]).astype(np.float32)

@extractor("halting", role="clip")
class Halting:
    """Has no words."""

    dim = 3

    def __init__(self, found, device):
        pass

    def embed(self, crops):
        return np.zeros((len(crops), 3), np.float32)

@extractor("stray", role="dinno")
class Stray:
    """Of no role."""
'''
CROPS = [np.full((8, 8, 3), level, np.uint8) for level in (10, 200)]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "scale.txt").write_text("2.0")
    return tmp_path / "nets.py"


def test_a_network_of_a_file_is_found_and_looks(nets: Path) -> None:
    ref = f"{nets}@mean-colour"
    assert extractors.role(ref) == "dino"
    network = extractors.load(ref)
    assert (network.name, network.role, network.digest) == ("mean-colour", "dino", extractors.find(ref).digest)
    assert network.embed(CROPS).tolist() == [[20.0] * 3, [400.0] * 3]
    card = extractors.card(ref)
    assert (card["role"], card["licence"], card["present"]) == ("dino", "mine", True)


def test_its_identity_is_its_source_and_its_weights(nets: Path) -> None:
    ref = f"{nets}@mean-colour"
    before = extractors.find(ref).digest
    nets.with_name("scale.txt").write_text("2.5")
    scaled = extractors.find(ref).digest
    nets.write_text(NETS.replace("crop.mean((0, 1))", "crop.max((0, 1))"))
    changed = extractors.find(ref).digest
    assert len({before, scaled, changed}) == 3
    nets.write_text(NETS.replace("# none", "").replace('licence="mine"', 'licence="yours"'))
    assert extractors.find(ref).digest == scaled


def test_what_is_wrong_with_it_is_said_before_it_is_used(nets: Path) -> None:
    with pytest.raises(UsageError, match=r"role clip and lacks embed_text; bench.extractors.protocol.EmbedsBoth"):
        extractors.load(f"{nets}@halting")
    with pytest.raises(UsageError, match=r"unknown role 'dinno'; did you mean 'dino'"):
        extractors.role(f"{nets}@stray")
    with pytest.raises(UsageError, match=r"defines no extractor 'mean-color'; did you mean 'mean-colour'"):
        extractors.find(f"{nets}@mean-color")
    nets.with_name("scale.txt").unlink()
    with pytest.raises(PrerequisiteError, match=r"expected them in .*scale.txt"):
        extractors.find(f"{nets}@mean-colour")


def test_a_network_of_another_package_has_a_name(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = nets.parent / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[scrollbench.extractors]\nmean-colour = other_nets:MeanColour\n")
    nets.rename(nets.with_name("other_nets.py"))
    monkeypatch.syspath_prepend(str(nets.parent))
    registry._entries.cache_clear()
    try:
        assert "mean-colour" in extractors.names()
        assert extractors.load("mean-colour").embed(CROPS).shape == (2, 3)
    finally:
        registry._entries.cache_clear()


def test_a_suite_is_scored_through_it(nets: Path, tmp_path: Path) -> None:
    metric = '[[metrics]]\nref = "gsd-dino"\nextractor = "nets.py@mean-colour"\n'
    wide = SUITE.replace("width = 16", "width = 32").replace("height = 8", "height = 8")
    suite = small(tmp_path, wide + metric)
    store = bench.Store(tmp_path / "store")
    assert bench.run(suite, store).complete
    (board,) = bench.boards(store, suite)
    column = next(c for c in board.columns if c.label == "gsd-dino")
    assert column.extractor == "mean-colour"
    assert all(board.cells[line.method, "gsd-dino"].value is not None for line in board.lines)


def test_every_role_says_what_is_asked_of_it_and_has_it() -> None:
    assert set(ASKS) == set(extractors.ROLES)
    assert asked("clip") == ["dim", "embed", "embed_text"]
    for role in ("dino", "clip", "inception", "lpips", "style", "oracle"):
        network = extractors.load(extractors.default(role, "miniature"))
        assert [name for name in asked(role) if not hasattr(network, name)] == []
