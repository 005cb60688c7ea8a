"""Plug-ins are found by name or file, read off their signatures, and refused with near misses."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.errors import UsageError
from bench.registry import Method, find, method, metric, names

FILE = '''
from bench.registry import method

@method("wobble", family="control", presets={"strong": {"amount": 3}}, paper="Nobody, 2020", optimises=("lpips-vgg",))
def wobbling(
    prompt, canvas, noise, *,
    amount: int = 1, decay: float = 0.5, mask: int | None = None, on: bool = True, mode: str = "a",
):
    """Wobbles.

    More about it.
    """
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entry points, one of them broken."""
    made = [EntryPoint("sound", "bench.registry:method", "scrollbench.methods"),
            EntryPoint("broken", "no_such_module:thing", "scrollbench.methods")]  # fmt: skip
    monkeypatch.setattr(registry, "_entries", lambda kind: {e.name: e for e in made} if kind == "methods" else {})


def wobble(file: Path) -> Method:
    found = find("methods", f"{file}@wobble")
    assert isinstance(found, Method)
    return found


def test_a_method_in_a_file_is_found_by_its_name(file: Path) -> None:
    found = wobble(file)
    assert (found.name, found.family, found.summary) == ("wobble", "control", "Wobbles.")
    assert found.optimises == ("lpips-vgg",)
    assert found.resolve({}) == {"amount": 1, "decay": 0.5, "mask": None, "on": True, "mode": "a"}


def test_presets_come_before_what_is_given(file: Path) -> None:
    assert wobble(file).resolve({}, "strong")["amount"] == 3
    assert wobble(file).resolve({"amount": 7}, "strong")["amount"] == 7
    with pytest.raises(UsageError, match="no preset 'stong'; did you mean 'strong'"):
        wobble(file).resolve({}, "stong")


@pytest.mark.parametrize(
    ("knob", "given", "value"),
    [("amount", "4", 4), ("decay", "1", 1.0), ("decay", 2, 2.0), ("mask", "none", None), ("mask", "5", 5),
     ("on", "false", False), ("mode", "7", "7")],
)  # fmt: skip
def test_text_from_a_command_line_becomes_the_declared_type(file: Path, knob: str, given: Any, value: Any) -> None:
    got = wobble(file).resolve({knob: given})[knob]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("knob", "given", "expected"),
    [("amount", "many", "int"), ("amount", 1.5, "int"), ("amount", True, "int"), ("decay", "x", "float"),
     ("on", 1, "bool"), ("mask", "x", "int or none"), ("mode", 3, "str")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_with_the_type_and_default(
    file: Path, knob: str, given: Any, expected: str
) -> None:
    with pytest.raises(UsageError, match=rf"wobble\.{knob} takes {expected}, got {given!r}; its default is"):
        wobble(file).resolve({knob: given})


def test_a_misspelt_knob_is_answered_with_near_misses(file: Path) -> None:
    with pytest.raises(UsageError, match="wobble has no knob 'amout'; did you mean 'amount'"):
        wobble(file).resolve({"amout": 2})


def test_a_misspelt_name_in_a_file_is_answered_with_near_misses(file: Path) -> None:
    with pytest.raises(UsageError, match=r"defines no method 'wobbel'; did you mean 'wobble'"):
        find("methods", f"{file}@wobbel")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file '.*absent\.py'.*FILE\.py@name"):
        find("methods", f"{tmp_path / 'absent.py'}@wobble")


def test_a_file_that_does_not_import_is_reported_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("1 / 0")
    with pytest.raises(UsageError, match=r"bad\.py does not import: ZeroDivisionError"):
        find("methods", f"{path}@thing")


def test_a_plain_function_is_not_a_method(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("def thing(): pass")
    with pytest.raises(UsageError, match=r"is not a method: decorate it with bench\.registry\.method"):
        find("methods", f"{path}@thing")


def test_a_broken_plug_in_is_reported_when_asked_for_and_disturbs_no_other(entries: None) -> None:
    assert names("methods") == ["broken", "sound"]
    assert find("methods", "sound") is method
    with pytest.raises(UsageError, match=r"'broken' \(no_such_module:thing\) does not load: ModuleNotFoundError"):
        find("methods", "broken")


def test_a_misspelt_plug_in_is_answered_with_near_misses_and_the_next_command(entries: None) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'sund'; did you mean 'sound'\?.*scrollbench list methods"):
        find("methods", "sund")


def test_an_unknown_kind_is_answered_with_near_misses() -> None:
    with pytest.raises(UsageError, match="did you mean 'methods'"):
        find("method", "x")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(prompt, canvas, *, a: int = 1): ...", r"must take \(prompt, canvas, noise.* takes \(prompt, canvas\)"),
        ("def f(prompt, canvas, noise, *, a=1): ...", "knob 'a' needs a type and a default"),
        ("def f(prompt, canvas, noise, *, a: int): ...", "knob 'a' needs a type and a default"),
    ],
)  # fmt: skip
def test_a_signature_that_cannot_be_configured_is_refused(body: str, message: str) -> None:
    scope: dict[str, Any] = {"__name__": "made_up"}
    exec(body, scope)
    with pytest.raises(UsageError, match=message):
        method("f", family="control")(scope["f"])


def test_a_preset_with_an_unknown_knob_is_refused_when_declared() -> None:
    def f(prompt: Any, canvas: Any, noise: Any, *, a: int = 1) -> None: ...

    with pytest.raises(UsageError, match="f has no knob 'b'"):
        method("f", family="control", presets={"p": {"b": 1}})(f)


def test_unknown_families_scopes_and_directions_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown family 'latents'; did you mean 'latent'"):
        method("f", family="latents")
    with pytest.raises(UsageError, match="scope must be 'image' or 'set'"):
        metric("m", scope="images", values={})
    with pytest.raises(UsageError, match="unknown direction 'up'"):
        metric("m", scope="image", values={"m": "up"})


def test_an_edited_file_is_read_again(file: Path) -> None:
    import os

    assert wobble(file).resolve({})["amount"] == 1
    file.write_text(FILE.replace("amount: int = 1", "amount: int = 2"))
    os.utime(file, ns=(1, 1))  # whatever the clock's resolution
    assert wobble(file).resolve({})["amount"] == 2


def test_the_docstring_stays_whole(file: Path) -> None:
    assert "More about it." in (inspect.getdoc(wobble(file).fn) or "")
