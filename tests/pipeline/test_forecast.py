"""Forecasts: operations against a hand calculation, evaluations against the cost model, memory and time."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench.cli.app import main
from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.pipeline import forecast as module
from bench.pipeline.forecast import Forecast, forecast, gpus
from bench.pipeline.meta import counting
from bench.registry import find
from bench.store import Store
from bench.suites.suite import Suite
from bench.types import Canvas
from methods.backbones.llamagen.backbone import llamagen
from methods.backbones.stable_diffusion import sd20
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from tests.support.small import PLUGINS, small, write_suite
from tests.support.small import SUITE as SMALL

SUITE = """
name = "wide"
version = "1"
tier = "full"
title = "Wide"
backbone = "sd20"
seeds = [0, 1]
[backbone_options]
precision = "fp16"
[[parts]]
name = "6to1"
width = 3072
height = 512
prompts = "prompts.jsonl"
[[methods]]
ref = "direct"
[[methods]]
ref = "multidiffusion"
[[methods]]
ref = "multidiffusion"
preset = "stride-16"
[[methods]]
ref = "plugins.py@grain"
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return small(tmp_path_factory.mktemp("wide"), SUITE)


@pytest.fixture(scope="module")
def rows(wide: Suite) -> list[Forecast]:
    return forecast(wide, "a100")


def by_hand(unet: Any, rows: int, high: int, wide: int) -> tuple[int, int]:
    """(attention, other) operations of one U-Net call, layer by layer from shapes that hooks see."""
    other, attention = 0, 0

    def layer(module: Any, inputs: Any, output: Any) -> None:
        nonlocal other
        if isinstance(module, torch.nn.Conv2d):
            per = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        else:
            per = module.in_features
        other += 2 * output.numel() * per

    def attend(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal attention
        queries = kwargs.get("hidden_states", args[0] if args else None)
        keys = kwargs.get("encoder_hidden_states")
        keys = queries if keys is None else keys
        attention += 4 * queries.shape[0] * queries.shape[1] * keys.shape[1] * module.to_q.out_features

    hooks = []
    for m in unet.modules():
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear):
            hooks.append(m.register_forward_hook(layer))
        if type(m).__name__ == "Attention":
            hooks.append(m.register_forward_hook(attend, with_kwargs=True))
    x = torch.empty(rows, 4, high, wide, device="meta", dtype=unet.dtype)
    text = torch.empty(rows, 77, 1024, device="meta", dtype=unet.dtype)
    with torch.no_grad():
        unet(x, torch.tensor(1), encoder_hidden_states=text)
    for hook in hooks:
        hook.remove()
    return attention, other


def test_operations_equal_a_count_by_hand_within_two_percent() -> None:
    backbone = sd20.skeleton(precision="bf16")
    told = backbone.condition("a sea")
    with counting() as tally, torch.no_grad():
        backbone.guided(torch.empty(3, 4, 64, 128, device="meta"), torch.tensor(1), told, 7.5)
    attention, other = by_hand(backbone.unet, 6, 64, 128)
    assert tally.attention == pytest.approx(attention, rel=0.02)
    assert tally.other == pytest.approx(other, rel=0.02)
    narrow = by_hand(backbone.unet, 6, 64, 64)
    assert abs(tally.other / narrow[1] - 2) < 0.02  # layers grow with the area
    assert tally.attention / narrow[0] > 3  # attention with its square: the control that it is told apart


def test_evaluations_follow_the_cost_model(rows: list[Forecast]) -> None:
    # 512 x 3072: 41 windows at stride 8, 21 at stride 16, two evaluations a window and step, 50 steps
    assert {r.method: r.nfe for r in rows} == {
        "direct": 2 * 50, "multidiffusion": 2 * 41 * 50, "multidiffusion:stride-16": 2 * 21 * 50,
    }  # fmt: skip


def test_controls_cost_nothing_and_pictures_are_all_prompts_and_seeds(rows: list[Forecast]) -> None:
    assert [r.method for r in rows] == ["direct", "multidiffusion", "multidiffusion:stride-16"]
    assert {r.pictures for r in rows} == {6}


def test_weights_count_every_module_in_its_own_precision(rows: list[Forecast]) -> None:
    unet, vae, text = 865_910_724, 83_653_863, 340_387_840
    assert rows[0].parameters == unet + vae + text
    assert rows[0].weights == pytest.approx(2 * unet + 4 * (vae + text), rel=0.001)
    assert rows[0].peak > rows[0].weights


def test_activations_grow_with_the_canvas() -> None:
    backbone = sd20.skeleton(precision="fp16")
    activations = {}
    for width in (64, 384):
        with counting() as tally, torch.no_grad():
            for p in backbone.unet.parameters():
                tally.track(p)
            weights, x = tally.live, torch.empty(2, 4, 64, width, device="meta")
            backbone.predict(x, torch.tensor(1), torch.empty(2, 77, 1024, device="meta"))
        activations[width] = tally.peak - weights
    assert activations[384] == pytest.approx(6 * activations[64], rel=0.1)


def test_seconds_are_operations_over_the_share_of_the_peak(wide: Suite, rows: list[Forecast]) -> None:
    rate = gpus()["a100"].half * 1e12 * module.EFFICIENCY
    for row in rows:
        assert row.seconds == pytest.approx((row.attention + row.other) / rate)
        assert row.hours == pytest.approx(row.seconds * 6 / 3600)
        assert "assumption" in row.rate_from


def test_measured_pictures_replace_the_assumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = small(tmp_path, SUITE.replace('backbone = "sd20"', 'backbone = "world-sd"').replace('"fp16"', '"fp32"'))
    made = {
        str(i): {"suite": suite.ref, "part": "6to1", "label": "direct", "cost": {"nfe": 100, "seconds": {"denoise": s}}}
        for i, s in enumerate((4.0, 5.0, 30.0))
    }
    made["control"] = {"suite": suite.ref, "part": "6to1", "label": "direct", "cost": {"nfe": 0, "seconds": {"r": 9.0}}}
    made["other"] = {"suite": "other@1", "part": "6to1", "label": "direct", "cost": {"nfe": 1, "seconds": {"d": 9.0}}}

    class Kept:
        def ledger(self) -> Any:
            return type("Ledger", (), {"images": made})

    counted = [
        Forecast("6to1", "direct", "sd20", "fp16", 6, nfe=100, attention=10**12, other=9 * 10**12),
        Forecast("6to1", "multidiffusion", "sd20", "fp16", 6, nfe=100, attention=0, other=2 * 10**13),
        Forecast("6to1", "odd", "sd20", "fp16", 6, problem="no"),
    ]
    store: Any = Kept()
    found = module._timed(counted, suite, "measured", 0.4, store)
    assert [r.seconds for r in found] == [5.0, 10.0, None]
    assert [r.rate_from for r in found] == ["its own pictures", "pictures of the other methods", ""]


def test_without_pictures_there_is_nothing_to_measure_by(tmp_path: Path) -> None:
    suite = small(tmp_path / "suite", SUITE)
    counted = [Forecast("6to1", "direct", "sd20", "fp16", 6, nfe=1, other=1)]
    with pytest.raises(PrerequisiteError, match=r"scrollbench generate --suite \S*wide"):
        module._timed(counted, suite, "measured", 0.4, Store(tmp_path / "store"))


def test_the_sheet_speaks_of_gigabytes_hours_and_money(rows: list[Forecast]) -> None:
    row, card = rows[0], gpus()["a100"]
    shown = module.sheet([row], "a100", price=2.0)[0]
    assert shown["peak_gb"] == pytest.approx(shown["weights_gb"] + shown["activations_gb"])
    assert shown["fits"] is True
    assert shown["cost_usd"] == pytest.approx(2.0 * 6 * row.seconds / 3600)
    assert module.sheet([row], "a100")[0]["cost_usd"] == pytest.approx(card.price * row.hours)
    assert module.sheet([replace(row, peak=int(81e9))], "a100")[0]["fits"] is False
    failed = module.sheet([Forecast("p", "m", "sd20", "fp16", 6, problem="no")], "a100")[0]
    assert (failed["note"], failed["nfe"], failed["hours"], failed["cost_usd"]) == ("no", None, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gpu": "h10"}, "did you mean 'h100'"), ({"efficiency": 0.0}, "share of the peak"), ({"efficiency": 1.5}, "1.5")],
)
def test_wrong_questions_are_refused_before_anything_is_counted(
    wide: Suite, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        forecast(wide, **options)


def test_a_method_that_refuses_the_canvas_says_so_in_its_row(tmp_path: Path) -> None:
    suite = small(tmp_path, SUITE.replace("width = 3072", "width = 3080"))
    direct, windows, _ = forecast(suite, "a100")
    assert direct.problem == ""
    assert "leave" in windows.problem
    assert windows.seconds is None


def test_a_backbone_of_unknown_size_has_no_forecast(tmp_path: Path) -> None:
    suite = small(tmp_path)
    (row,) = forecast(suite)
    assert "plugins.py@fake offers no skeleton" in row.problem


LOOKING = """
from types import SimpleNamespace

@method("looking", family="latent")
def looking(backbone, prompt, canvas, noise):
    \"\"\"Asks how bright its picture is.\"\"\"
    raise ValueError("no numbers here")

def skeleton(**options):
    made = Backbone()
    made.parts = {}
    return made

fake.skeleton = skeleton
"""


def test_a_row_that_cannot_be_forecast_leaves_the_table_whole(tmp_path: Path) -> None:
    text = SMALL + '[[methods]]\nref = "plugins.py@looking"\n[[methods]]\nref = "plugins.py@latent-grain"\n'
    text = text.replace('[[metrics]]\nref = "plugins.py@brightness"\n', "")
    file = str(write_suite(tmp_path, text, PLUGINS + LOOKING))
    said = called("plan", "--suite", file, "--forecast", "--gpu", "a100", "--json")
    rows = {row["method"]: row for row in json.loads(said.stdout)["forecast"]}
    assert list(rows) == ["latent", "plugins.py@looking", "plugins.py@latent-grain"]
    assert [row["nfe"] for row in rows.values()] == [3, None, 3]
    assert rows["plugins.py@looking"]["note"] == "cannot run without numbers: ValueError: no numbers here"
    table = called("plan", "--suite", file, "--forecast", "--gpu", "a100")
    assert (table.exit_code, "forecast, a100" in table.stdout, "no numbers here" in table.stdout) == (0, True, True)


def test_the_forecast_that_the_readme_asks_for_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    line = next(line for line in readme.splitlines() if "scrollbench plan --suite pano-1k --forecast" in line)
    words = shlex.split(line.partition("#")[0])[1:]
    monkeypatch.setattr(module, "_skeleton", lambda use: (None, "not built in a test"))
    said = called(*words, "--limit", "1", "--store", str(tmp_path), "--json")
    assert said.exit_code == 0, said.output
    rows = json.loads(said.stdout)["forecast"]
    families = {"multidiffusion", "panollama", "direct-video", "dype"}
    assert families <= {row["method"] for row in rows}
    assert {row["note"] for row in rows} == {"not built in a test"}


def called(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "300"}).invoke(main, list(words))


def test_the_network_is_left_as_it_was(wide: Suite) -> None:
    suite = wide
    use = suite.methods[0]
    backbone, _ = module._skeleton(use)
    module._count(Forecast("6to1", "direct", "sd20", "fp16", 1), backbone, use, suite.parts[0])
    assert not {"predict", "decode", "encode"} & set(vars(backbone))
    assert "remember" not in vars(backbone.meter)


def test_networks_of_a_samplers_own_are_counted_once_for_every_shape(wide: Suite) -> None:
    backbone, _ = module._skeleton(wide.methods[0])
    backbone.meter.reset()
    calls = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return x @ x

    with counting() as tally, torch.no_grad():
        with module._remembering(backbone, tally):
            own = backbone.meter.remember(loss)
            for _ in range(3):
                own(torch.empty(10, 10, device="meta"))
        assert backbone.meter.remember(loss) is loss
    assert len(calls) == 1
    assert tally.other == 3 * 2 * 10**3


@pytest.mark.parametrize("name", ["direct-tokens", "panollama"])
def test_walks_over_tokens_are_counted_as_if_every_call_had_run(name: str, tmp_path: Path) -> None:
    backbone = llamagen.outline(model=str(write_tiny_llamagen(tmp_path)))
    method, prompt = find("methods", name), SimpleNamespace(id="boat", text="a boat", negative="")
    canvas = Canvas(14, 8)  # 7 x 4 tokens
    use = SimpleNamespace(method=method, params=method.resolve({}))
    part: Any = SimpleNamespace(prompts=SimpleNamespace(prompts=[prompt]), canvas=canvas)
    row = module._count(Forecast("p", name, "llamagen", "fp32", 1), backbone, use, part)  # type: ignore[arg-type]
    assert (row.problem, row.nfe) == ("", 2 * 28)
    assert row.parameters == sum(p.numel() for m in (backbone.gpt, backbone.vq, backbone.t5) for p in m.parameters())
    assert row.weights == sum(t.nbytes for m in (backbone.gpt, backbone.vq, backbone.t5) for t in
                              (*m.parameters(), *m.buffers()))  # fmt: skip
    assert row.peak > row.weights
    with counting() as tally:
        method.fn(backbone, prompt, canvas, Noise(0, "boat"), **use.params)
    assert (row.attention, row.other) == (tally.attention, tally.other)
    assert row.attention > 0
