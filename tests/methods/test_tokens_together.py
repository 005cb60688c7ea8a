"""Several pictures walked in step: the pixels of each alone; what the loop over tokens asks of a device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.executors import groups
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.probe import Probe
from bench.store import Store
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning
from methods.backbones.llamagen.backbone import LlamaGen, llamagen, skeleton
from methods.backbones.llamagen.gpt import Linear, Walk
from methods.backbones.meter import Meter
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from methods.direct_tokens import direct_tokens
from methods.panollama import panollama, panollama_tokens
from methods.shared.tokens import Sampler, joined, numbers
from tests.support.small import SUITE, small

STORY = [Prompt("a", "dune; reef"), Prompt("b", "fog; fog; ice"), Prompt("c", "moon"), Prompt("d", "a; b; c")]
CANVAS = Canvas(20, 12)  # 10 x 6 tokens: blocks of 3 columns and 2 rows more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llamagen(tmp_path_factory.mktemp("llamagen"))


def together(backbone: LlamaGen, prompts: Sequence[Prompt], canvas: Canvas = CANVAS, **given: Any) -> list[Any]:
    method = panollama if "scenes" in given else direct_tokens
    noises = [Noise(0, p.id) for p in prompts]
    pictures: list[Any] = method.together(backbone, prompts, canvas, noises, **method.resolve(given))  # type: ignore[misc]
    return pictures


# -- pixels


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_pictures_walked_together_are_those_of_each_alone_to_the_last_bit(folder: Path, precision: str) -> None:
    b = llamagen(model=str(folder), precision=precision)
    for given in ({"scenes": ";"}, {"guidance": 3.0}):
        alone = [together(b, [p], **given)[0] for p in STORY]
        assert all(torch.equal(x, y) for x, y in zip(together(b, STORY, **given), alone))
        assert all(torch.equal(x, y) for x, y in zip(together(b, STORY[:0:-1], **given), alone[:0:-1]))
        assert not torch.equal(alone[0], alone[1])


def walked(gpt: Any, several: int) -> torch.Tensor:
    """Logits of a walk of pictures that differ, three calls."""
    config, generator = gpt.config, torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, config.cls_token_num, config.caption_dim, generator=generator)
    tokens = torch.randint(0, config.vocab_size, (4, 6), generator=generator)
    made = []
    for i in range(0, 4, several):
        walk = Walk(gpt, (4, 4), 7.5, Meter(), several)
        told = features[:, i : i + several].flatten(0, 1)
        given = tokens[i : i + several]
        mask = torch.ones(told.shape[:2], dtype=torch.bool)
        logits = [walk.tell(Conditioning(told, {"mask": mask}))]
        logits += [walk.feed(given[:, :1], [0]), walk.feed(given[:, 1:5], range(1, 5)), walk.feed(given[:, 5:], [5])]
        made.append(torch.stack(logits))
    return torch.cat(made, 1)


def test_one_product_over_all_pictures_would_round_by_their_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt = llamagen(model=str(folder)).gpt
    with torch.no_grad():
        alone = walked(gpt, 1)
        assert torch.equal(walked(gpt, 2), alone)
        assert torch.equal(walked(gpt, 4), alone)
        monkeypatch.setattr(Linear, "forward", torch.nn.Linear.forward)
        assert not torch.equal(walked(gpt, 4), alone)


def test_a_walk_takes_one_prompt_or_one_for_each_picture(folder: Path) -> None:
    b = llamagen(model=str(folder))
    told = joined([b.condition(text) for text in ("sea", "fog")])
    assert b.walk((4, 4), 3.0, 2).tell(told).shape == (2, 64)
    assert torch.equal(*b.walk((4, 4), 3.0, 2).tell(b.condition("sea")))
    with pytest.raises(UsageError, match="a walk of 3 pictures takes 1 or 3 prompts, got 2"):
        b.walk((4, 4), 3.0, 3).tell(told)


# -- a suite's pictures


def run(folder: Path, backbone: Path, batch: int) -> tuple[dict[str, Any], Any]:
    options = f'{{ model = "{backbone}", batch = {batch} }}'
    methods = f'ref = "panollama"\nbackbone = "llamagen"\nbackbone_options = {options}'
    suite = SUITE.replace('ref = "plugins.py@latent-grain"\nlabel = "latent"', methods).replace(
        "width = 16", "width = 20"
    )
    store = Store(folder / "store")
    plan = make_plan(small(folder / "suite", suite), store)
    generate(plan, store)
    made = {r["prompt_id"]: r for r in store.records() if r["kind"] == "image" and r["label"] == "panollama"}
    return made, plan


def test_a_suite_makes_the_same_pictures_whatever_its_batch_and_says_who_shared_the_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    singles, _ = run(tmp_path / "1", folder, 1)
    pairs, plan = run(tmp_path / "2", folder, 2)
    assert sorted(map(len, groups(plan.jobs))) == [1, 1, 1, 1, 2]  # controls are made one by one
    assert sorted(r.get("together", 1) for r in pairs.values()) == [1, 2, 2]
    assert {i: r["image_id"] for i, r in pairs.items()} == {i: r["image_id"] for i, r in singles.items()}
    assert {i: r["cost"]["nfe"] for i, r in pairs.items()} == dict.fromkeys(singles, 80)
    shared = [r["cost"] for r in pairs.values() if "together" in r]
    assert shared[0] == shared[1]
    assert {i for i, r in pairs.items() if "prompt-truncated" in r["flags"]} == set(singles)

    def full(self: LlamaGen, grid: tuple[int, int], guidance: float, pictures: int = 1) -> Walk:
        if pictures > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Walk(self.gpt, grid, guidance, self.meter)

    monkeypatch.setattr(LlamaGen, "walk", full)
    alone, _ = run(tmp_path / "3", folder, 3)
    assert all("together" not in r for r in alone.values())
    assert {i: r["image_id"] for i, r in alone.items()} == {i: r["image_id"] for i, r in singles.items()}


def test_each_of_several_pictures_has_its_own_flags(folder: Path) -> None:
    b = llamagen(model=str(folder))
    together(b, [Prompt("a", "sea"), Prompt("b", "a very long river"), Prompt("c", "fog")])
    assert [b.meter.flags_of(i) for i in range(3)] == [[], ["prompt-truncated"], []]


def test_a_batch_below_one_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="batch is how many pictures may walk together, 1 or more; got 0"):
        llamagen(model=str(folder), batch=0)


# -- what the loop over tokens asks of a device


class Crossings(TorchDispatchMode):
    """Operators that touch a tensor elsewhere than on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if any(t.device.type != "meta" for t in tensors):
            self.found.append(str(func))
        return out


def test_between_tokens_nothing_goes_to_the_device_or_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, pick = skeleton(folder), Sampler(1.0, 30, 0.9)
    told = [[b.condition(p.text)] * 2 for p in STORY[:2]]
    u = numbers([Noise(0, p.id) for p in STORY[:2]], (4, 6), b.device)
    walk, build = b.walk((4, 4), 7.5, 2), torch.tensor

    def scroll(choose: Any) -> list[str]:
        with torch.no_grad(), Crossings() as crossings, monkeypatch.context() as patch:
            patch.setattr(torch, "tensor", lambda *a, **k: crossings.found.append("torch.tensor") or build(*a, **k))
            tokens = panollama_tokens(walk, told, (4, 6), 4, ([0], [0, 2]), choose)
        assert (tokens.shape, tokens.device.type) == ((2, 4, 6), "meta")
        return crossings.found

    assert scroll(lambda logits, y, x: pick.draw(logits, u[:, y, x])) == []
    assert scroll(lambda logits, y, x: torch.tensor([y, x], device="meta")) == ["torch.tensor"] * 24  # the controls
    assert len(scroll(lambda logits, y, x: torch.zeros(2, dtype=torch.long).to("meta"))) >= 24
    with pytest.raises(RuntimeError, match="meta tensor"):
        scroll(lambda logits, y, x: torch.full((2,), int(logits.argmax()), device="meta"))


def test_one_compiled_step_of_fixed_shapes_serves_every_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = llamagen(model=str(folder), precision="fp64", compile=True)
    assert b.walk((4, 4), 7.5).step is None  # nothing to capture on a CPU
    plain = together(b, STORY[:2], scenes=";")
    counter, walks = CompileCounter(), []

    def walk(grid: tuple[int, int], guidance: float, pictures: int = 1) -> Walk:
        walks.append(Walk(b.gpt, grid, guidance, b.meter, pictures).compiled(backend=counter))
        return walks[-1]

    monkeypatch.setattr(b, "walk", walk)
    assert all(torch.equal(x, y) for x, y in zip(together(b, STORY[:2], scenes=";"), plain))
    assert counter.frame_count == 1
    made = walks[0]
    call = partial(made.step, made.gpt)  # type: ignore[arg-type]
    state = made.places, made.shown, made.rotary, made.cache
    with torch.no_grad():
        call(torch.zeros(2, 1, dtype=torch.long), made.places[12:13], *state)
        assert counter.frame_count == 1
        call(torch.zeros(2, 2, dtype=torch.long), made.places[12:14], *state)
    assert counter.frame_count == 2  # the control: other shapes are compiled anew


def test_a_compiled_walk_is_kept_and_begins_afresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = llamagen(model=str(folder), compile=True)
    told = b.condition("sea")
    real = Walk.compiled
    monkeypatch.setattr(Walk, "compiled", lambda walk: real(walk, backend="eager"))
    monkeypatch.setattr(b, "device", torch.device("cuda"))
    probe, walk = Probe(b), b.walk((4, 4), 7.5)
    with torch.no_grad():
        walk.tell(told)
    assert any(walk.fed)
    assert b.walk((4, 4), 7.5) is walk
    assert not any(walk.fed)
    assert not any(layer.any() for layer in walk.cache.keys)
    assert b.walk((4, 4), 3.0) is not walk
    assert probe.changes() == []  # what is kept is no change of the backbone
