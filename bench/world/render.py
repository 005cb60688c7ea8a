"""The ScrollWorld renderer: panoramas of any width with exact annotations. numpy only.

Pictures are 32 px high pixel art. The background (sky, land, water, weather) is painted and put into the
scene's style first; *accents* (the unique thing and the counted objects) are drawn last in reserved
colours, so that a detector can tell them from everything else. A 32x32 square is a complete picture with
its unique thing, never a crop of a panorama.

Cross-region cues: the sun or moon warms the sky around it, glints on water and snow below it, and lights
the side of every house, boat, tent and tree that faces it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.world.scene import Scene

HEIGHT = 32  # px, fixed for the whole world

Colour = tuple[float, float, float]

SKY: dict[str, tuple[Colour, Colour]] = {  # zenith, horizon
    "dawn": ((140, 150, 228), (250, 205, 208)),
    "day": ((62, 122, 222), (186, 220, 250)),
    "dusk": ((58, 30, 112), (226, 112, 132)),
    "night": ((9, 11, 38), (34, 46, 92)),
}
CLOUD: dict[str, Colour] = {
    "dawn": (226, 204, 238), "day": (250, 251, 255), "dusk": (128, 66, 128), "night": (58, 64, 100),
}  # fmt: skip
LIGHT: dict[str, Colour] = {  # what the time of day leaves of a ground colour
    "dawn": (0.98, 0.84, 0.88), "day": (1.0, 1.0, 1.0), "dusk": (0.66, 0.42, 0.52), "night": (0.24, 0.28, 0.42),
}  # fmt: skip
GROUND: dict[str, tuple[Colour, Colour]] = {  # at the horizon, at the lower edge
    "sea": ((62, 140, 200), (22, 70, 140)),
    "meadow": ((132, 190, 92), (66, 140, 56)),
    "forest": ((82, 124, 72), (44, 84, 50)),
    "desert": ((236, 204, 142), (206, 160, 96)),
    "mountains": ((122, 132, 110), (88, 102, 80)),
    "snow": ((240, 246, 252), (206, 220, 238)),
    "city": ((128, 130, 140), (82, 84, 94)),
}
BODY: dict[str, Colour] = {
    "dawn": (255, 146, 52),
    "day": (255, 220, 46),
    "dusk": (255, 104, 14),
    "night": (250, 248, 226),
}
INK_SUN: Colour = (214, 44, 30)
ACCENT: dict[str, Colour] = {
    "lighthouse": (208, 24, 72), "balloon": (0, 200, 128), "house": (196, 76, 44), "boat": (226, 40, 96),
    "tent": (244, 132, 22),
}  # fmt: skip
PAPER = np.array([226, 216, 196], dtype=np.float32) / 255
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Thing:
    """One drawn thing: its kind and the centre of its bounding box, in pixels."""

    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """A rendered picture and the truth about it. ``rgb`` is uint8 (32, width, 3)."""

    rgb: np.ndarray
    scene: Scene
    horizon: int
    things: tuple[Thing, ...] = field(default=())

    def count(self, kind: str) -> int:
        """How many things of a kind were drawn."""
        return sum(t.kind == kind for t in self.things)


def render(scene: Scene, width: int = HEIGHT, seed: int = 0, *, copies: int = 1, loop: bool = False) -> Picture:
    """Draw a scene on a canvas of 32 x ``width`` px.

    Args:
        scene: what to draw. The unique thing is drawn ``copies`` times (1 is the truth of a caption; other
            numbers inject a known repetition), counted objects exactly as often as the scene says.
        width: pixels, at least 32.
        seed: everything the scene leaves open (positions, ridges, clouds, stars).
        loop: the left and right edges meet.

    Raises:
        ValueError: width below 32, negative copies, or more copies than fit.
    """
    if width < HEIGHT:
        raise ValueError(f"width must be at least {HEIGHT} px, got {width}")
    room = 18 if scene.unique != "lighthouse" else 10
    if copies < 0 or copies > max(1, width // room):
        raise ValueError(f"{copies} copies do not fit on a canvas {width} px wide (one needs {room} px)")
    painter = _Painter(scene, width, seed, loop)
    unique = painter.spread(copies if scene.unique else 0, room)
    painter.background(unique)
    painter.style()
    painter.accents(unique)
    rgb = np.clip(np.rint(painter.img * 255), 0, 255).astype(np.uint8)
    return Picture(rgb, scene, painter.horizon, tuple(painter.things))


def _rgb(colour: Colour) -> np.ndarray:
    return np.asarray(colour, dtype=np.float32) / 255


class _Painter:
    def __init__(self, scene: Scene, width: int, seed: int, loop: bool) -> None:
        self.scene, self.width, self.loop = scene, width, loop
        self.rng = np.random.default_rng([seed, 7])
        self.horizon = int(self.rng.integers(18, 22))
        self.img = np.zeros((HEIGHT, width, 3), dtype=np.float32)
        self.x = np.arange(width, dtype=np.float32)
        self.y = np.arange(HEIGHT, dtype=np.float32)[:, None]
        self.light = np.asarray(LIGHT[scene.time], dtype=np.float32)
        self.things: list[Thing] = []
        self.bodies: list[float] = []

    # -- helpers

    def dx(self, x: float) -> np.ndarray:
        """Signed horizontal distance of every column to x, around the loop where there is one."""
        d = self.x - x
        return (d + self.width / 2) % self.width - self.width / 2 if self.loop else d

    def blend(self, colour: np.ndarray, alpha: np.ndarray, rows: slice = slice(None)) -> None:
        part = self.img[rows]
        part += (colour - part) * alpha[..., None]

    def spread(self, n: int, gap: float, margin: float = 5.0) -> list[float]:
        """n x-positions at least ``gap`` apart (around the loop too), uniformly at random."""
        if n == 0:
            return []
        span = self.width - (gap * n if self.loop else 2 * margin + gap * (n - 1))
        starts = np.sort(self.rng.random(n)) * max(span, 0) + gap * np.arange(n)
        offset = self.rng.random() * self.width if self.loop else margin - 0.5
        return [float((s + offset) % self.width) for s in starts]

    def noise(self, scale: float) -> np.ndarray:
        """Smooth 1-d noise in [0, 1] with one knot every ``scale`` px."""
        knots = max(2, round(self.width / scale))
        values = self.rng.random(knots + 1).astype(np.float32)
        if self.loop:
            values[-1] = values[0]
        at = self.x / self.width * knots
        i = np.minimum(at.astype(int), knots - 1)
        t = at - i
        t = t * t * (3 - 2 * t)
        smooth: np.ndarray = values[i] * (1 - t) + values[i + 1] * t
        return smooth

    # -- background

    def background(self, unique: list[float]) -> None:
        s, hz = self.scene, self.horizon
        top, low = (_rgb(c) for c in SKY[s.time])
        ramp = np.clip(self.y / hz, 0, 1)[..., None]
        self.img[:] = top + (low - top) * ramp
        if s.time == "night" and s.weather == "clear":
            n = self.rng.poisson(self.width / 32 * 7)
            ys, xs = self.rng.integers(0, hz - 4, n), self.rng.integers(0, self.width, n)
            self.img[ys, xs] += 0.45
        if s.weather == "cloudy":
            self.clouds()
        self.bodies = unique if s.unique in ("sun", "moon") else []
        for x in self.bodies:
            near = np.exp(-((self.dx(x) / 15) ** 2)) * (0.35 + 0.3 * ramp[..., 0]) * (self.y < hz)
            self.blend(self.body_colour(), near * (0.45 if s.time in ("dawn", "dusk") else 0.3))
        self.land()
        if s.weather == "foggy":
            veil = 0.72 * np.exp(-(((self.y - hz) / 6.5) ** 2)) * (0.85 + 0.15 * self.noise(12))
            self.blend(low * 0.55 + 0.45 * low.mean() + 0.06, np.clip(veil, 0, 1))

    def body_colour(self) -> np.ndarray:
        if self.scene.style == "ink" and self.scene.time != "night":
            return _rgb(INK_SUN)
        return _rgb(BODY[self.scene.time])

    def clouds(self) -> None:
        colour = _rgb(CLOUD[self.scene.time])
        for _ in range(max(1, self.rng.poisson(self.width / 32 * 2.6))):
            x, y = self.rng.random() * self.width, self.rng.uniform(1.5, self.horizon - 9)
            for _ in range(3):
                rx, ry = self.rng.uniform(3, 6), self.rng.uniform(1.0, 1.9)
                d = (self.dx(x + self.rng.normal(0, 3)) / rx) ** 2 + ((self.y - y - self.rng.normal(0, 0.6)) / ry) ** 2
                self.blend(colour, np.clip(1.6 - 1.4 * d, 0, 0.85))

    def land(self) -> None:
        s, hz = self.scene, self.horizon
        low = _rgb(SKY[s.time][1])
        near, deep = (_rgb(c) * self.light for c in GROUND[s.biome])
        if s.biome == "mountains":
            self.ridge(
                9 * self.noise(18) ** 1.3 * (0.7 + 0.3 * self.noise(5)), _rgb((112, 122, 150)) * self.light, snow=True
            )
            self.ridge(4 * self.noise(11), _rgb((82, 96, 110)) * self.light)
        elif s.biome == "city":
            self.skyline(low)
        elif s.biome in ("desert", "snow", "meadow"):
            self.ridge(4.5 * self.noise(26), near * 0.72 + low * 0.28)
        elif s.biome == "sea":
            self.ridge(2.2 * np.clip(self.noise(30) - 0.55, 0, 1) * 3, near * 0.5 + low * 0.3)
        below = np.clip((self.y - hz) / (HEIGHT - hz), 0, 1)[..., None]
        ground = near + (deep - near) * below
        rows = slice(hz, HEIGHT)
        self.img[rows] = ground[rows]
        if s.biome == "sea":
            self.waves(rows, near, low)
        else:
            texture = self.rng.random((HEIGHT - hz, self.width)).astype(np.float32)
            self.img[rows] *= (0.97 + 0.05 * texture)[..., None]
            if s.biome == "desert":
                crest = np.sin(self.y[rows] * 1.3 + 5 * self.noise(14)) > 0.72
                self.img[rows] *= np.where(crest, 0.86, 1.0)[..., None]
        for x in self.bodies:
            strength = {"sea": 0.6, "snow": 0.34}.get(s.biome, 0.2)
            column = np.exp(-((self.dx(x) / (2.2 if s.biome == "sea" else 6.0)) ** 2)) * np.ones_like(self.y[rows])
            if s.biome == "sea":
                column = column * (0.55 + 0.45 * (self.rng.random(column.shape) < 0.6))
            self.blend(self.body_colour() * 0.8 + 0.2 * near, column * strength, rows)
        if s.biome in ("forest", "mountains", "snow", "meadow"):
            self.trees({"forest": 6.5, "mountains": 1.6, "snow": 1.6, "meadow": 1.0}[s.biome])
        elif s.biome == "desert":
            self.cacti()

    def ridge(self, height: np.ndarray, colour: np.ndarray, snow: bool = False) -> None:
        top = self.horizon - height
        cover = np.clip(self.y - top + 0.5, 0, 1) * (self.y < self.horizon)
        self.blend(colour, cover)
        if snow:
            cap = np.clip(self.y - top + 0.5, 0, 1) * np.clip(top + 1.8 - self.y, 0, 1) * (height > 4)
            self.blend(_rgb((244, 248, 255)) * (0.35 + 0.65 * self.light), cap)

    def waves(self, rows: slice, near: np.ndarray, low: np.ndarray) -> None:
        h = HEIGHT - self.horizon
        for _ in range(self.rng.poisson(self.width / 32 * 12)):
            y, x = int(self.rng.integers(0, h)), int(self.rng.integers(0, self.width))
            length = int(self.rng.integers(2, 6))
            cols = (np.arange(x, x + length) % self.width) if self.loop else np.arange(x, min(x + length, self.width))
            self.img[rows][y, cols] += (low * 0.9 - self.img[rows][y, cols]) * 0.32

    def skyline(self, low: np.ndarray) -> None:
        x = 0
        while x < self.width:
            w, h = int(self.rng.integers(3, 7)), int(self.rng.integers(2, 8))
            shade = self.rng.uniform(0.75, 1.1)
            block = self.img[self.horizon - h : self.horizon, x : x + w]
            block[:] = _rgb((104, 110, 130)) * self.light * shade + low * 0.12
            lit = np.zeros(block.shape[:2], dtype=bool)
            lit[1::2, 1:-1:2] = self.rng.random(lit[1::2, 1:-1:2].shape) < 0.6
            block[lit] = (1.0, 0.82, 0.45) if self.scene.time in ("night", "dusk") else low * 0.9
            x += w + int(self.rng.integers(0, 2))

    def lit(self, x: float) -> float:
        """+1 where the light comes from the right of x, -1 from the left, 0 without a sun or moon."""
        if not self.bodies:
            return 0.0
        distances = [self.dx(b)[int(x) % self.width] for b in self.bodies]
        return -float(np.sign(min(distances, key=abs)))

    def trees(self, per_square: float) -> None:
        for _ in range(self.rng.poisson(per_square * self.width / 32)):
            x, base = self.rng.random() * self.width, self.rng.uniform(self.horizon + 1.5, HEIGHT - 3)
            h = self.rng.uniform(4, 6.5)
            self.tree(x, base, h)

    def tree(self, x: float, base: float, h: float) -> None:
        d, up = self.dx(x), (base - self.y) / h
        inside = (np.abs(d) < (1 - up) * 2.4) & (up >= 0) & (up < 1)
        colour = _rgb((34, 84, 48)) * (0.25 + 0.75 * self.light)
        side = np.clip(1 + 0.35 * self.lit(x) * np.sign(d), 0.6, 1.5) * np.ones_like(up)
        self.img[inside] = (colour * side[..., None])[inside]

    def cacti(self) -> None:
        for _ in range(self.rng.poisson(1.6 * self.width / 32)):
            x, base = int(self.rng.integers(1, self.width - 1)), int(self.rng.integers(self.horizon + 4, HEIGHT - 1))
            colour = _rgb((60, 116, 62)) * (0.25 + 0.75 * self.light)
            self.img[base - 5 : base, x] = colour
            self.img[base - 4, x - 1 : x + 2] = colour

    # -- style

    def style(self) -> None:
        if self.scene.style == "ink":
            grey = (self.img @ LUMA)[..., None]
            self.img = 0.78 * grey**0.9 * PAPER * 1.04 + 0.22 * self.img
        elif self.scene.style == "woodblock":
            luma = (self.img @ LUMA)[..., None]
            vivid = np.clip(luma + (self.img - luma) * 1.3, 0, 1)
            bands = (np.floor(luma * 5.999) + 0.6) / 6  # six tones, flat between their edges
            self.img = np.clip(vivid * (0.15 + 0.85 * bands / np.maximum(luma, 0.04)), 0, 1)
            self.img[self.horizon - 1] *= 0.5

    # -- accents

    def accents(self, unique: list[float]) -> None:
        kind = self.scene.unique
        for x in unique:
            if kind in ("sun", "moon"):
                self.disc(kind, x)
            elif kind == "balloon":
                self.balloon(x)
        if kind == "lighthouse":
            for x in unique:
                self.lighthouse(x)
        if self.scene.counted:
            self.objects(*self.scene.counted, avoid=unique if kind == "lighthouse" else [])

    def bright(self, colour: np.ndarray) -> np.ndarray:
        """Accents stay readable at night, a little dimmer."""
        return colour * {"night": 0.78, "dusk": 0.9}.get(self.scene.time, 1.0)

    def disc(self, kind: str, x: float) -> None:
        y, r = self.rng.uniform(4.8, 8.8), self.rng.uniform(3.6, 4.2)
        d = np.sqrt(self.dx(x) ** 2 + (self.y - y) ** 2)
        self.blend(self.body_colour(), 0.4 * np.exp(-((np.maximum(d - r, 0) / 2.2) ** 2)))
        self.blend(self.body_colour(), np.clip(r - d + 0.5, 0, 1))
        self.things.append(Thing(kind, x, y))

    def balloon(self, x: float) -> None:
        y, r = self.rng.uniform(4.8, 8.0), self.rng.uniform(3.5, 3.9)
        d = np.sqrt(self.dx(x) ** 2 + (self.y - y) ** 2)
        stripe = np.where(np.abs(self.dx(x)) < 1.0, 0.78, 1.0)[None, :, None]
        colour = self.bright(_rgb(ACCENT["balloon"])) * stripe
        alpha = np.clip(r - d + 0.5, 0, 1)[..., None]
        self.img = self.img * (1 - alpha) + colour * alpha
        basket = (np.abs(self.dx(x)) < 1.1) & (np.abs(self.y - y - r - 2) < 0.9)
        self.img[basket] = self.bright(_rgb((92, 60, 40)))
        self.things.append(Thing("balloon", x, y))

    def lighthouse(self, x: float) -> None:
        base = self.horizon + 2
        top = base - 13
        d, rows = self.dx(x), self.y
        rock = (np.abs(d) < 3.6 - 0.9 * (base + 1 - rows)) & (rows > base - 2) & (rows <= base + 1)
        self.img[rock] = _rgb((84, 80, 84)) * (0.3 + 0.7 * self.light)
        body = (np.abs(d) < 1.2 + 0.06 * (rows - top)) & (rows >= top + 3) & (rows < base)
        band = ((rows - top - 3) // 2 % 2 == 0) & body
        self.img[body] = self.bright(_rgb((244, 240, 236)))
        self.img[band] = self.bright(_rgb(ACCENT["lighthouse"]))
        lamp = (np.abs(d) < 1.2) & (rows >= top + 1) & (rows < top + 3)
        self.img[lamp] = _rgb((255, 236, 130))
        cap = (np.abs(d) < 1.7) & (rows >= top) & (rows < top + 1)
        self.img[cap] = self.bright(_rgb(ACCENT["lighthouse"]))
        self.things.append(Thing("lighthouse", x, (base + top) / 2))

    def objects(self, kind: str, n: int, avoid: list[float]) -> None:
        for _ in range(50):
            xs = self.spread(n, 9.0, margin=4.0)
            if all(abs(self.dx(a)[int(x)]) > 6 for a in avoid for x in xs):
                break
        for x in xs:
            base = int(self.rng.integers(self.horizon + 7, HEIGHT))
            getattr(self, kind)(round(x) % self.width, base)

    def columns(self, x: int, *offsets: int) -> np.ndarray:
        cols = x + np.asarray(offsets)
        return cols % self.width if self.loop else np.clip(cols, 0, self.width - 1)

    def shade(self, x: int, colour: np.ndarray, side: int) -> np.ndarray:
        return self.bright(colour) * (1.0 if self.lit(x) * side >= 0 else 0.7)

    def house(self, x: int, base: int) -> None:
        wall, roof = _rgb((236, 222, 200)), _rgb(ACCENT["house"])
        for side, cols in ((-1, (-2, -1)), (1, (0, 1, 2))):
            self.img[base - 3 : base, self.columns(x, *cols)] = self.shade(x, wall, side)
        self.img[base - 2 : base, self.columns(x, 0)] = self.bright(_rgb((92, 60, 40)))
        for row, reach in ((base - 4, 3), (base - 5, 2), (base - 6, 1)):
            self.img[row, self.columns(x, *range(-reach, reach + 1))] = self.bright(roof)
        self.things.append(Thing("house", x, base - 3.5))

    def boat(self, x: int, base: int) -> None:
        sail, hull = self.bright(_rgb(ACCENT["boat"])), self.bright(_rgb((70, 44, 34)))
        self.img[base - 1, self.columns(x, *range(-2, 3))] = hull
        self.img[base - 2, self.columns(x, *range(-3, 4))] = hull
        for row, reach in ((base - 3, 2), (base - 4, 2), (base - 5, 1), (base - 6, 1), (base - 7, 0)):
            self.img[row, self.columns(x, *range(-reach, reach + 1))] = sail
            self.img[row, self.columns(x, -int(self.lit(x)) * reach)] = sail * 0.72
        self.things.append(Thing("boat", x, base - 4.0))

    def tent(self, x: int, base: int) -> None:
        colour = _rgb(ACCENT["tent"])
        for i, reach in enumerate((0, 1, 2, 2, 3)):
            row = base - 5 + i
            for side, cols in ((-1, range(-reach, 0)), (1, range(0, reach + 1))):
                if len(cols):
                    self.img[row, self.columns(x, *cols)] = self.shade(x, colour, side)
        self.img[base - 2 : base, self.columns(x, 0)] = self.bright(_rgb((70, 40, 30)))
        self.things.append(Thing("tent", x, base - 3.0))
