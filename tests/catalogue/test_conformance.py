"""The conformance check: built-in methods pass, each kind of mistake is named."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.catalogue.conformance import CheckResult, check, passed
from bench.errors import UsageError

HEAD = '''
import numpy as np, torch, random
from bench.registry import method
from bench.errors import UsageError
from methods.shared.canvas import cells, picture, start
state = []

@method("mine", family="{family}")
def mine({leading}, *, steps: int = 50):
    """A method under test."""
'''
# A sound sampler, in pieces that the mistakes below replace.
SOUND = """
    if canvas.loop:
        raise UsageError("no loops")
    scheduler = backbone.scheduler(steps)
    x = start(backbone, scheduler, noise, cells(backbone, canvas))
    told = backbone.condition(prompt.text)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(backbone.guided(x, t, told, 2.0), t, x).prev_sample
        image = picture(backbone, x)
    return image
"""
LATENT = HEAD.format(family="latent", leading="backbone, prompt, canvas, noise")
CONTROL = HEAD.format(family="control", leading="prompt, canvas, noise")


def run(tmp_path: Path, source: str, tiny_sd: Path | None = None) -> dict[str, CheckResult]:
    """Check a plug-in with this source; results by name."""
    file = tmp_path / "plugin.py"
    file.write_text(source)
    options = {"backbone": "diffusers", "model": str(tiny_sd)} if tiny_sd else {}
    return {r.name: r for r in check(f"{file}@mine", **options)}


def failures(results: dict[str, CheckResult]) -> set[str]:
    return {name for name, r in results.items() if not r.ok}


@pytest.mark.parametrize("name", ["direct", "multidiffusion"])
def test_built_in_methods_meet_every_requirement(name: str, tiny_sd: Path) -> None:
    results = check(name, backbone="diffusers", model=str(tiny_sd))
    assert passed(results), results
    assert {"deterministic", "metered", "loop canvas", "global generators"} <= {r.name for r in results}


def test_a_check_needs_no_backbone_to_be_named() -> None:
    assert passed(check("multidiffusion"))


def test_a_sound_plug_in_passes(tmp_path: Path, tiny_sd: Path) -> None:
    assert failures(run(tmp_path, LATENT + SOUND, tiny_sd)) == set()


MISTAKES = {
    "deterministic": ("    return image", "    return (image + 1e-3 * len(state.append(0) or state)).clamp(0, 1)"),
    "global generators": ("x = start", "torch.rand(1); x = start"),
    "seeds differ": (
        "x = start(backbone, scheduler, noise,",
        "x = start(backbone, scheduler, type(noise)(0, prompt.id),",
    ),
    "prompts differ in noise": (
        "x = start(backbone, scheduler, noise,",
        "x = start(backbone, scheduler, type(noise)(noise.seed, 'all'),",
    ),
    "independent": (
        "    return image",
        "    state.append(prompt.id)\n    return image * (0.5 if len(set(state)) > 1 else 1.0)",
    ),
    "metered": (
        "backbone.guided(x, t, told, 2.0)",
        "backbone.unet(x, t, encoder_hidden_states=told.embeds[1:]).sample",
    ),
    "backbone restored": ("    return image", "    backbone.unet.conv_out.bias.data.zero_()\n    return image"),
    "loop canvas": ('raise UsageError("no loops")', "pass"),
}


@pytest.mark.parametrize("requirement", sorted(MISTAKES))
def test_each_mistake_is_named(requirement: str, tmp_path: Path, tiny_sd: Path) -> None:
    old, new = MISTAKES[requirement]
    assert old in SOUND
    assert requirement in failures(run(tmp_path, LATENT + SOUND.replace(old, new), tiny_sd))


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("return image[:, :-1]", "wrong size: the canvas is 64 wide and 32 high, this is 64 wide and 31 high"),
        ("return image.permute(1, 2, 0)", "looks like height x width x 3: permute(2, 0, 1)"),
        ("return image.permute(0, 2, 1)", "looks like width x height: transpose(1, 2)"),
        ("return image[None]", "the batch is left on: return picture[0]"),
        ("return image.permute(1, 2, 0)[None]", "picture[0]; then it looks like height x width x 3"),
        ("return x[0, :3]", "1/4 of the canvas: latents that are not decoded"),
        ("return image[:1]", "one channel of grey"),
        ("return [image]", "got a list: return one picture"),
        ("image", "got a NoneType: nothing is returned"),
        ("return (image * 255).to(torch.uint8)", "levels from 0 to 255"),
        ("return image * 255", "looks like 0..255: divide by 255"),
        ("return image * 2 - 1", "looks like -1..1: x / 2 + 0.5"),
        ("return image - 0.2", "negative values: clamp(0, 1)"),
        ("image[0, 0, 0] = torch.nan; return image", "0.0% of the values are NaN or infinite"),
    ],
)  # fmt: skip
def test_output_of_the_wrong_kind_is_named(ending: str, message: str, tmp_path: Path) -> None:
    random_picture = """
    if canvas.loop:
        raise UsageError("no loops")
    x = noise.normal("x", (1, 4, canvas.height // 4, canvas.width // 4))
    image = torch.linspace(0, 1, 3 * canvas.height * canvas.width).reshape(3, canvas.height, canvas.width)
    """
    results = run(tmp_path, CONTROL + random_picture + ending + "\n")
    assert failures(results) == {"output"}
    assert message in results["output"].message
    assert re.search(r"plugin\.py:\d+ in mine\)$", results["output"].message)


def test_an_error_is_told_with_the_line_of_the_file_that_it_came_through(tmp_path: Path) -> None:
    results = run(tmp_path, CONTROL + "    return np.zeros(3).reshape(2, 2)\n")
    assert re.search(r"ValueError: .*plugin\.py:11 in mine\)", results["runs"].message)


def test_the_picture_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(CONTROL + "    return np.full((3, canvas.height, canvas.width), 0.5)\n")
    out = tmp_path / "preview.png"
    results = check(f"{tmp_path / 'plugin.py'}@mine", out=out)
    assert ("preview", True, str(out)) in [(r.name, r.ok, r.message) for r in results]
    assert set(np.asarray(Image.open(out)).flat) == {128}
    with pytest.raises(UsageError, match=r"--out takes a file \.png in a folder that is there"):
        check("direct", out=tmp_path / "none" / "preview.png")


def test_a_method_that_raises_is_reported_with_its_error(tmp_path: Path, tiny_sd: Path) -> None:
    results = run(tmp_path, LATENT + '    raise KeyError("no such layer")\n', tiny_sd)
    assert failures(results) == {"runs"}
    assert "KeyError" in results["runs"].message


def test_a_wrong_signature_is_reported_not_raised(tmp_path: Path) -> None:
    source = LATENT.replace("backbone, prompt, canvas, noise", "prompt, canvas") + "    return None\n"
    results = run(tmp_path, source)
    assert failures(results) == {"loads"}
    assert "must take (backbone, prompt, canvas, noise" in results["loads"].message


def test_an_unknown_method_is_reported_with_the_near_miss() -> None:
    (only,) = check("multidifusion")
    assert not only.ok
    assert "did you mean 'multidiffusion'" in only.message


def test_controls_are_checked_without_a_backbone(tmp_path: Path) -> None:
    ending = """
    shade = {"sea": 0.2, "snow": 0.9}[prompt.attributes["scene"]["biome"]]
    ramp = np.linspace(0, 0.1, canvas.width) if not canvas.loop else np.zeros(canvas.width)
    return np.broadcast_to(shade + ramp, (3, canvas.height, canvas.width))
"""
    results = run(tmp_path, CONTROL + ending)
    assert failures(results) == set()
    assert "metered" not in results
    same = run(tmp_path, CONTROL + ending.replace("0.9}", "0.2}"))
    assert failures(same) == {"prompts differ"}


def test_a_family_without_a_miniature_asks_for_a_backbone(tmp_path: Path) -> None:
    source = LATENT.replace('"latent"', '"tokens"') + "    return None\n"
    results = run(tmp_path, source)
    assert failures(results) == {"runs"}
    assert "family tokens" in results["runs"].message


def test_a_pair_that_cannot_work_is_refused(tmp_path: Path, tiny_sd: Path) -> None:
    source = LATENT.replace('"latent"', '"video"') + "    return None\n"
    results = run(tmp_path, source, tiny_sd)
    assert "video method" in results["runs"].message


def test_an_unknown_backbone_is_an_error_of_the_caller() -> None:
    with pytest.raises(UsageError, match="did you mean 'diffusers'"):
        check("direct", backbone="difusers")


def test_checking_leaves_the_callers_generators_alone(tiny_sd: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    check("direct", backbone="diffusers", model=str(tiny_sd))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected  # noqa: NPY002
