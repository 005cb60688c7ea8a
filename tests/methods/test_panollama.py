"""PanoLlama: the released walk token for token, no break where blocks meet, and what a picture costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning
from methods.backbones.llamagen.backbone import LlamaGen, llamagen
from methods.backbones.llamagen.gpt import Walk
from methods.backbones.meter import SharedMeter
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from methods.direct_tokens import direct_tokens
from methods.panollama import fill, panollama, panollama_tokens, scenes_of, texts_of
from methods.shared.tokens import Sampler, draws
from tests.support.close import products, rounding
from tests.support.panollama_golden import SIDE, golden, network
from tests.support.small import SUITE, small

BOAT = Prompt("boat", "a boat")


def made(backbone: Any, canvas: Canvas, prompt: Prompt = BOAT, seed: int = 0, **knobs: Any) -> torch.Tensor:
    picture: torch.Tensor = panollama.fn(backbone, prompt, canvas, Noise(seed, prompt.id), **panollama.resolve(knobs))
    return picture


class Shown:
    """A backbone of squares of ``side`` tokens, one pixel each, whose pictures are its tokens: token / codes."""

    name, family, factor, device, dtype = "shown", "tokens", 1, torch.device("cpu"), torch.float64

    def __init__(self, side: int, codes: int) -> None:
        self.side, self.codes, self.meter = side, codes, SharedMeter()

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return (tokens.double() / self.codes).expand(3, -1, -1)


def shown(picture: torch.Tensor, codes: int) -> torch.Tensor:
    """The tokens of such a picture."""
    return (picture[0] * codes).round().long()


# -- the released walk


class Primed(Walk):
    """Knows the first square, which is put into the cache in one call, and draws what comes after it."""

    square: list[int]

    def tell(self, conditioning: Conditioning) -> torch.Tensor:
        super().tell(conditioning)
        super().feed(self.square, range(SIDE * SIDE))
        self.drawn = 0
        return self.draw()

    def draw(self) -> torch.Tensor:
        self.drawn += 1
        return torch.nn.functional.one_hot(torch.tensor([self.square[self.drawn - 1]]), 96).float()

    def feed(self, tokens: torch.Tensor | Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        return self.draw() if self.drawn < SIDE * SIDE else super().feed(tokens, positions)


class Golden(Shown):
    """The small network of a golden case; ``primed`` with the released first square, which saves time."""

    def __init__(self, name: str, primed: bool) -> None:
        super().__init__(SIDE, 96)
        self.entry, self.arrays = golden(name)
        self.gpt, self.primed = network(torch.float64), primed

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        rows = torch.stack([self.gpt.cls_embedding.uncond_embedding, self.arrays["cond"][0].double()])
        return Conditioning(rows, {"mask": self.arrays["emb_mask"].bool().expand(2, -1)})

    def walk(self, grid: tuple[int, int], guidance: float, pictures: int = 1) -> Walk:
        made = (Primed if self.primed else Walk)(self.gpt, grid, guidance, self.meter)
        if isinstance(made, Primed):
            made.square = self.arrays["block_tokens"][0, 0].tolist()
        return made


def replayed(name: str, preset: str | None, primed: bool) -> torch.Tensor:
    backbone = Golden(name, primed)
    settings = backbone.entry["settings"]
    columns = settings["addit_cols"]
    given = {"columns": columns, "guidance": settings["cfg_scale"], "temperature": 0.0}
    canvas = Canvas(SIDE + settings["times"] * columns, SIDE)
    picture = panollama.fn(backbone, BOAT, canvas, Noise(0, "boat"), **panollama.resolve(given, preset))
    return shown(picture, backbone.codes)


@pytest.mark.parametrize(("name", "primed"), [("panollama_h_c8", False), ("panollama_h_c24", True)])
def test_the_legacy_preset_gives_the_released_token_maps(name: str, primed: bool) -> None:
    assert torch.equal(replayed(name, "legacy", primed), golden(name)[1]["pano_tokens"][0].long())


def test_fresh_entries_for_the_first_row_differ_from_it_as_much_as_in_the_released_code() -> None:
    entry, arrays = golden("panollama_h_c8")
    ours = replayed("panollama_h_c8", None, primed=True)
    differing = int((ours != arrays["pano_tokens"][0]).sum())
    mistake = "retained tokens of row 0 re-fed before sampling (number of differing tokens)"
    assert differing == pytest.approx(entry["negative_controls"][mistake], rel=0.05)
    assert torch.equal(ours[:, :SIDE], arrays["pano_tokens"][0, :, :SIDE].long())


# -- no break where blocks meet


class LocalWalk:
    """Logits that depend on the token to the left and the one above alone, by a table; counts what it is asked.

    Table row -1 is for no neighbour.
    """

    def __init__(self, grid: tuple[int, int], table: torch.Tensor) -> None:
        self.width, self.table = grid[1], table
        self.entries = [-1] * (grid[0] * grid[1])
        self.asked: list[tuple[int, int]] = []  # (first position, number of tokens)

    def tell(self, conditioning: Conditioning) -> torch.Tensor:
        return self.table[-1, -1][None]

    def feed(self, tokens: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        self.asked.append((positions[0], len(positions)))
        for token, position in zip(tokens[0].tolist(), positions, strict=True):
            self.entries[position] = token
        following = positions[-1] + 1
        left = self.entries[following - 1] if following % self.width else -1
        above = self.entries[following - self.width] if following >= self.width else -1
        return self.table[left, above][None]


class Local(Shown):
    """Squares of 4 x 4 tokens of 11 codes by :class:`LocalWalk`; ``above`` is whether it looks there too."""

    def __init__(self, above: bool = True) -> None:
        super().__init__(4, 11)
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn((12, 12 if above else 1, 11), generator=generator).expand(12, 12, 11)  # -1 is the last
        self.walks: list[LocalWalk] = []
        self.texts: list[str] = []

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        self.texts.append(prompt)
        return Conditioning(torch.zeros(2, 1, 1))

    def walk(self, grid: tuple[int, int], guidance: float, pictures: int = 1) -> LocalWalk:
        self.walks.append(LocalWalk(grid, self.table))
        return self.walks[-1]


def in_one_pass(backbone: Local, canvas: Canvas) -> torch.Tensor:
    """The whole map by one walk over all of it."""
    picture: torch.Tensor = direct_tokens.fn(backbone, BOAT, canvas, Noise(0, "boat"), top_k=0)
    return picture


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("canvas", [Canvas(16, 4), Canvas(4, 13), Canvas(13, 10)])
def test_no_break_is_seen_where_blocks_meet_by_a_network_that_looks_at_neighbours_only(
    canvas: Canvas, above: bool
) -> None:
    backbone = Local(above)
    whole = in_one_pass(backbone, canvas)
    for columns, rows in ((1, 1), (2, 3), (3, 2)):
        blocks = made(backbone, canvas, columns=columns, rows=rows, remainder="clamp", top_k=0)
        assert torch.equal(blocks, whole)
    if canvas.width > 4:  # blocks that retain nothing do not know their neighbours
        assert not torch.equal(made(backbone, canvas, columns=4, rows=1, remainder="clamp", top_k=0), whole)


def test_an_extension_to_the_right_sees_the_rows_above_it() -> None:
    canvas, backbone = Canvas(10, 10), Local()
    whole = shown(in_one_pass(backbone, canvas), 11)
    u, pick = draws(Noise(0, "boat"), (10, 10)), Sampler(1.0, 0, 1.0)
    for mistake in (False, True):  # that of the released walk in both directions: only left columns are retained
        tokens, known = torch.zeros(1, 10, 10, dtype=torch.long), np.zeros((10, 10), dtype=bool)
        walk = backbone.walk((4, 4), 1.0)
        opening = walk.tell(backbone.condition(""))
        for y in (0, 2, 4, 6):
            for x in (0, 3, 6):
                above = tokens[0, y : y + 2, x + 1 : x + 4]
                before = above.clone()
                if mistake and y and x:
                    known[y : y + 2, x + 1 : x + 4] = False
                fill(walk, tokens, known, (y, x), 4, opening, lambda z, i, j: pick(z, float(u[i, j])))
                if mistake and y and x:
                    above.copy_(before)
        assert torch.equal(tokens[0], whole) is not mistake


def test_a_longer_scroll_begins_as_a_shorter_one_does() -> None:
    long, short = (made(Local(), Canvas(width, 7), columns=2, rows=3) for width in (20, 8))
    assert torch.equal(long[..., :8], short)
    assert not torch.equal(made(Local(), Canvas(8, 7), columns=2, rows=3, seed=1), short)


# -- what is in the cache


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Squares of 4 x 4 tokens, 2 px each."""
    return llamagen(model=str(write_tiny_llamagen(tmp_path_factory.mktemp("llamagen"))))


def decisions(tiny: LlamaGen, refeed: bool, lefts: Sequence[int]) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
    """(map, logits by place) of a scroll one square high."""
    size, seen = (4, lefts[-1] + 4), {}
    u, pick = draws(Noise(0, "boat"), size), Sampler(1.0, 0, 1.0)

    def choose(logits: torch.Tensor, y: int, x: int) -> torch.Tensor:
        seen[y, x] = logits
        return pick(logits, float(u[y, x]))

    with torch.no_grad():
        told = [tiny.condition("a boat")] * len(lefts)
        return panollama_tokens(tiny.walk((4, 4), 3.0), [told], size, 4, ([0], lefts), choose, refeed)[0], seen


@pytest.mark.parametrize("step", [1, 3])
def test_every_decision_is_that_of_one_teacher_forced_pass_over_its_block(tiny: LlamaGen, step: int) -> None:
    lefts = [0, step, 2 * step]
    for refeed in (True, False):
        tokens, seen = decisions(tiny, refeed, lefts)
        block = tokens[:, lefts[-1] :].flatten()
        apart = 0.0
        for (y, x), logits in seen.items():
            if x < lefts[-2] + 4:
                continue
            with torch.no_grad():
                fresh = tiny.walk((4, 4), 3.0)
                fresh.tell(tiny.condition("a boat"))
                count = 4 * y + x - lefts[-1]
                apart = max(apart, float((fresh.feed(block[:count], range(count)) - logits).abs().max()))
        size = 5 * max(float(z.abs().max()) for z in seen.values())  # u + 3 (c - u) enlarges what is rounded
        bound = rounding(size, products(tiny.gpt))
        assert (apart < bound) is (refeed or step == 3)  # a single retained column is fed again either way


def test_a_block_that_retains_all_but_one_token_takes_one_call(tiny: LlamaGen) -> None:
    tokens, known = torch.arange(16).view(1, 4, 4), np.ones((4, 4), dtype=bool)
    tokens[0, 3, 3], known[3, 3] = 0, False
    with torch.no_grad():
        walk = tiny.walk((4, 4), 3.0)
        opening = walk.tell(tiny.condition("a boat"))
        tiny.meter.reset()
        fill(walk, tokens, known, (0, 0), 4, opening, lambda logits, y, x: logits.argmax(-1))
        assert tiny.meter.nfe == 2
        forced = tiny.walk((4, 4), 3.0)
        forced.tell(tiny.condition("a boat"))
        assert int(tokens[0, 3, 3]) == int(forced.feed(range(15), range(15)).argmax())


# -- cost


@pytest.mark.parametrize("columns", [1, 3])
def test_a_picture_takes_one_call_for_each_token_and_the_cache_of_one_square(columns: int) -> None:
    fed, longest = [], 0
    for width in (16, 28, 40):
        backbone = Local()
        made(backbone, Canvas(width, 4), columns=columns)
        (walk,) = backbone.walks
        assert len(walk.asked) == 4 * width - 1  # the prompt's answer decides the first
        assert len(walk.entries) == 16
        fed.append(sum(count for _, count in walk.asked))
        longest = max(longest, *(count for _, count in walk.asked))
    assert fed[1] - fed[0] == fed[2] - fed[1]  # as much for 12 columns more, wherever they are
    assert longest <= 4
    whole = Local()
    in_one_pass(whole, Canvas(40, 4))
    assert len(whole.walks[0].entries) == 160  # the walk over all of it, whose cache grows


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 2), (1.0, 1)])
def test_evaluations_are_those_of_the_map(tiny: LlamaGen, guidance: float, rows: int) -> None:
    tiny.meter.reset()
    made(tiny, Canvas(20, 12), guidance=guidance)  # 10 x 6 tokens; strides of 3 and 2
    cost = tiny.meter.cost()
    assert cost.nfe == 60 * rows
    assert set(cost.seconds) == {"text", "denoise", "decode"}


# -- sampling


def test_pictures_depend_on_nothing_that_was_made_before(tiny: LlamaGen) -> None:
    state = torch.get_rng_state()
    canvas, others = Canvas(14, 8), [Prompt("sea", "the sea"), Prompt("fog", "fog")]
    first = made(tiny, canvas)
    backwards = [made(tiny, canvas, prompt) for prompt in reversed(others)]
    assert torch.equal(made(tiny, canvas), first)
    assert all(torch.equal(made(tiny, canvas, p), b) for p, b in zip(reversed(others), backwards))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(made(tiny, canvas, seed=1), first)
    assert not torch.equal(made(tiny, canvas, top_k=2), first)


def test_a_prompt_that_the_text_encoder_cuts_is_flagged(tiny: LlamaGen) -> None:
    for text, flags in (("a boat", []), ("a boat on a very long river", ["prompt-truncated"])):
        tiny.meter.reset()
        made(tiny, Canvas(14, 8), Prompt("boat", text))
        assert tiny.meter.flags == flags


# -- scenes


class Scenes(Local):
    """Each token is the number of letters of the prompt told last."""

    class Walk(LocalWalk):
        def tell(self, conditioning: Conditioning) -> torch.Tensor:
            self.table = torch.eye(11)[int(conditioning.embeds[0, 0, 0])].expand(12, 12, 11)
            return super().tell(conditioning)

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        return Conditioning(torch.full((2, 1, 1), float(len(prompt))))

    def walk(self, grid: tuple[int, int], guidance: float, pictures: int = 1) -> LocalWalk:
        return Scenes.Walk(grid, self.table)


def test_scenes_follow_each_other_along_the_scroll_in_every_row_of_blocks() -> None:
    story = Prompt("story", "a | bb | ccc")
    tokens = shown(made(Scenes(), Canvas(12, 6), story, scenes="|", columns=2, rows=2, temperature=0.0), 11)
    assert tokens[0].tolist() == [1] * 4 + [2] * 4 + [3] * 4  # blocks add 0-3, 4-5, 6-7, 8-9, 10-11
    assert bool((tokens == tokens[0]).all())
    plain = shown(made(Scenes(), Canvas(12, 6), Prompt("story", "a | bb"), columns=2, rows=2, temperature=0.0), 11)
    assert plain.unique().tolist() == [6]  # without the knob it is one text
    assert scenes_of([0, 2, 4, 6, 8], 4, 2) == [0, 0, 1, 1, 1]


def test_layers_of_scenes_lie_where_the_new_tokens_of_a_block_do() -> None:
    layout = Prompt("layout", "a ; bb / ccc / dddd ; eeeee ; ffffff")
    knobs = {"scenes": ";", "layers": "/", "columns": 2, "rows": 2, "temperature": 0.0}
    tokens = shown(made(Scenes(), Canvas(12, 12), layout, **knobs), 11)
    down = [0] * 4 + [1] * 4 + [2] * 4  # blocks add rows 0-3, 4-5, 6-7, 8-9, 10-11
    across = ([1] * 6 + [2] * 6, [3] * 12, [4] * 4 + [5] * 4 + [6] * 4)
    assert tokens[0].tolist() == [1] * 6 + [2] * 6  # columns 4-5 have their middle in the first half
    assert tokens.tolist() == [across[i] for i in down]
    upright = made(Scenes(), Canvas(6, 12), Prompt("p", "a/bb"), layers="/", columns=2, rows=2, temperature=0.0)
    assert shown(upright, 11)[:, 0].tolist() == [1] * 6 + [2] * 6
    assert texts_of("a/b;c", ";", "/", ([0, 4], [0, 4]), 4, Canvas(8, 8)) == ["a", "a", "b", "c"]


# -- what cannot work


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(20, 8), {"columns": 0}, "columns is from 1 to 4 tokens, the side of the native square; got 0"),
        (Canvas(20, 8), {"columns": 5}, "columns is from 1 to 4 tokens"),
        (Canvas(20, 8), {"rows": 5}, "rows is from 1 to 4 tokens"),
        (Canvas(20, 8, loop=True), {}, "cannot make a loop"),
        (Canvas(21, 8), {}, "multiples of 2, got 21x8"),
        (Canvas(20, 6), {}, "the canvas height is 6 px: ask for at least 8 px"),
        (Canvas(6, 8), {}, "the canvas width is 6 px: ask for at least 8 px"),
        (Canvas(22, 8), {"columns": 3}, "leave 2 of 22 px of width over; nearest that fit: 20 or 26 px. Or set"),
        (Canvas(8, 18), {"rows": 3}, "leave 4 of 18 px of height over; nearest that fit: 14 or 20 px. Or set rows=1"),
        (Canvas(20, 8), {"remainder": "clmp"}, "unknown remainder 'clmp'; did you mean 'clamp'"),
        (Canvas(20, 8), {"decode": 5}, "decode takes 0 (the whole map in one pass) or at least 9"),
        (Canvas(20, 12), {"refeed": False}, "works on canvases one square high (8 px)"),
        (Canvas(24, 8), {"refeed": False, "columns": 4}, "retains at least one column: columns at most 3"),
        (Canvas(14, 8), {"scenes": "b"}, "got 2 scenes and 2 blocks"),
        (Canvas(14, 8), {"scenes": " "}, ""),
        (Canvas(14, 8), {"layers": " "}, "got 2 scenes in 2 layers and 2 blocks on 14x8 px"),
        (Canvas(14, 8), {"scenes": " ", "layers": " "}, "told apart by different signs, got ' ' for both"),
        (Canvas(8, 8), {"scenes": " "}, "got 2 scenes and 1 blocks"),
        (Canvas(20, 8), {"top_p": 0.0}, "0 < top_p <= 1"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_computed(
    tiny: LlamaGen, canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    tiny.meter.reset()
    prompt = Prompt("boat", "boat" if knobs.get("scenes") == "b" else "a boat")
    if not message:  # the same with room for each
        made(tiny, canvas, prompt, **knobs)
        return
    with pytest.raises(UsageError) as refusal:
        made(tiny, canvas, prompt, **knobs)
    assert message in str(refusal.value)
    assert (tiny.meter.nfe, tiny.meter.seconds) == (0, {})


def suite(folder: Path, method: str, backbone: str = "", width: int = 20) -> Any:
    toml = SUITE.replace('ref = "plugins.py@latent-grain"\nlabel = "latent"', method)
    toml = toml.replace("width = 16", f"width = {width}")
    return small(folder, toml.replace('backbone = "plugins.py@fake"', backbone) if backbone else toml)


def test_a_plan_refuses_other_families_and_canvases_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"samples in family 'tokens', backbone .* is of family 'latent'"):
        make_plan(suite(tmp_path / "a", 'ref = "panollama"'), Store(tmp_path / "store"))
    folder = write_tiny_llamagen(tmp_path / "llamagen")
    own = f'backbone = "llamagen"\nbackbone_options = {{ model = "{folder}" }}'
    plan = make_plan(suite(tmp_path / "b", 'ref = "panollama"', own), Store(tmp_path / "store"))
    assert sum(job.recipe.method == "panollama" for job in plan.jobs) == 3
    with pytest.raises(UsageError, match=r"method 'panollama', part '2to1': .*nearest that fit: 20 or 26 px"):
        make_plan(suite(tmp_path / "c", 'ref = "panollama"', own, width=22), Store(tmp_path / "store"))
