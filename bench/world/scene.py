"""ScrollWorld scenes: what a picture contains, said in values and in plain English.

A :class:`Scene` is the whole truth a caption tells: style, biome, time of day, weather, at most one
*unique* thing (it must appear exactly once on a canvas of any width, or the sky is "empty") and at most
one *counted* group of objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from bench.reading import refuse, shown

if TYPE_CHECKING:
    import numpy as np

    from bench.prompts import PromptSet

STYLES = ("photo", "ink", "woodblock")
BIOMES = ("sea", "meadow", "forest", "desert", "mountains", "snow", "city")
TIMES = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "cloudy", "foggy")
UNIQUES = ("sun", "moon", "lighthouse", "balloon")
OBJECTS = ("house", "boat", "tent")
FIELDS = ("style", "biome", "time", "weather", "unique", "counted")

# Where things may stand: a boat needs water, a lighthouse a coast or open ground.
OBJECT_OF_BIOME = {
    "sea": "boat", "meadow": "house", "forest": "house", "desert": "tent",
    "mountains": "house", "snow": "tent", "city": None,
}  # fmt: skip
LIGHTHOUSE_BIOMES = ("sea", "meadow", "snow")


@dataclass(frozen=True)
class Scene:
    """The attributes a caption states. ``unique`` is None for an empty sky; ``counted`` is (kind, 1..3)."""

    style: str
    biome: str
    time: str
    weather: str
    unique: str | None
    counted: tuple[str, int] | None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; the inverse of :meth:`from_dict`."""
        return {
            "style": self.style,
            "biome": self.biome,
            "time": self.time,
            "weather": self.weather,
            "unique": self.unique,
            "counted": list(self.counted) if self.counted else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scene:
        """Build a scene from :meth:`to_dict`'s values.

        Raises:
            UsageError: no object, an unknown or missing field, or words this world does not know, with the choices.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"a scene is an object of {', '.join(FIELDS)}; got {shown(data)}")
        for field in data:
            if field not in FIELDS:
                raise UsageError(f"a scene has no field {shown(field)}; {near(str(field), FIELDS)}")
        for field, choices in (
            ("style", STYLES), ("biome", BIOMES), ("time", TIMES), ("weather", WEATHERS),
            ("unique", (None, *UNIQUES)),
        ):  # fmt: skip
            if field not in data:
                raise UsageError(f"scene {field} is missing; it must be one of {choices}")
            if not isinstance(data[field], str | None) or data[field] not in choices:
                raise UsageError(f"scene {field} must be one of {choices}, got {shown(data[field])}")
        counted = data.get("counted")
        if counted is not None and not _is_counted(counted):
            raise UsageError(f"scene counted must be [kind, 1..3] with kind in {OBJECTS}, got {shown(counted)}")
        return cls(
            data["style"], data["biome"], data["time"], data["weather"], data["unique"],
            (counted[0], counted[1]) if counted is not None else None,
        )  # fmt: skip


def _is_counted(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    kind, n = value
    return isinstance(kind, str) and kind in OBJECTS and type(n) is int and n in NUMBER_WORDS


def check_scenes(chosen: PromptSet) -> None:
    """Refuse a set with a ``scene`` that is none of this world. Raises ``UsageError`` with file, line and field."""
    problems = []
    for prompt in chosen.prompts:
        try:
            if "scene" in prompt.attributes:
                Scene.from_dict(prompt.attributes["scene"])
        except UsageError as error:
            problems.append(f"{chosen.place(prompt.id)}: field 'scene': {error}")
    refuse(problems)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: 20 % empty skies, about 50 % sun or moon, the rest a lighthouse or a balloon."""
    biome = str(rng.choice(BIOMES))
    time = str(rng.choice(TIMES))
    roll = rng.random()
    if roll < 0.20:
        unique = None
    elif roll < 0.70 or (roll < 0.85 and biome not in LIGHTHOUSE_BIOMES):
        unique = "moon" if time == "night" else "sun"
    else:
        unique = "lighthouse" if roll < 0.85 else "balloon"
    kind = OBJECT_OF_BIOME[biome]
    counted = (kind, int(rng.integers(1, 4))) if kind and rng.random() < 0.5 else None
    return Scene(str(rng.choice(STYLES)), biome, time, str(rng.choice(WEATHERS)), unique, counted)


NUMBER_WORDS = {1: "one", 2: "two", 3: "three"}

# The first wording of each list is the canonical one; training draws among all of them.
WORDING: dict[str, dict[str | None, tuple[str, ...]]] = {
    "style": {
        "photo": ("a photo of", "a photograph of", "a photo of"),
        "ink": ("an ink painting of", "an ink drawing of", "a painting in ink of"),
        "woodblock": ("a woodblock print of", "a print of", "a poster of"),
    },
    "biome": {
        "sea": ("the sea", "a calm sea", "the ocean"),
        "meadow": ("a green meadow", "a field of grass", "a meadow"),
        "forest": ("a pine forest", "a forest", "the woods"),
        "desert": ("a sandy desert", "a desert", "sand dunes"),
        "mountains": ("high mountains", "a mountain range", "mountains"),
        "snow": ("a snow field", "snowy hills", "a winter field"),
        "city": ("a city skyline", "a city", "city towers"),
    },
    "time": {
        "dawn": ("at dawn", "in the early morning", "at dawn"),
        "day": ("by day", "at noon", "in daylight"),
        "dusk": ("at dusk", "in the evening", "at dusk"),
        "night": ("at night", "by night", "at midnight"),
    },
    "weather": {
        "clear": ("clear sky", "a clear sky", "clear weather"),
        "cloudy": ("cloudy sky", "clouds", "cloudy weather"),
        "foggy": ("fog", "mist", "foggy"),
    },
    "unique": {
        None: ("empty sky", "an empty sky", "nothing in the sky"),
        "sun": ("one sun", "the sun", "a single sun"),
        "moon": ("one moon", "the moon", "a full moon"),
        "lighthouse": ("one lighthouse", "a lighthouse", "a tall lighthouse"),
        "balloon": ("one balloon", "a balloon", "a hot air balloon"),
    },
}

# Words real prompts are full of and this world cannot draw. Training captions sometimes carry a few, so
# that the text encoder learns to pass over them; the tokenizer learns them as whole words.
FILLERS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


def caption(scene: Scene, rng: np.random.Generator | None = None, fillers: float = 0.0) -> str:
    """Say a scene in English: canonical wording, or drawn wording and clause order when ``rng`` is given.

    ``fillers`` is the probability that words this world cannot draw are mixed in (training only).
    """

    def pick(field: str, value: str | None) -> str:
        options = WORDING[field][value]
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    head = f"{pick('style', scene.style)} {pick('biome', scene.biome)} {pick('time', scene.time)}"
    clauses = [pick("weather", scene.weather), pick("unique", scene.unique)]
    if scene.counted:
        kind, n = scene.counted
        clauses.append(f"{NUMBER_WORDS[n]} {kind}{'s' if n > 1 else ''}")
    if rng is not None:
        clauses = [clauses[i] for i in rng.permutation(len(clauses))]
        if rng.random() < fillers:
            words = rng.choice(FILLERS, size=int(rng.integers(1, 9)))
            clauses.insert(int(rng.integers(len(clauses) + 1)), " ".join(words))
    return ", ".join([head, *clauses])
