"""A store written by hand: records (and pictures, where a test looks at them) whose numbers can be checked on paper."""

from __future__ import annotations

from typing import Any

from bench.ledger import SLOTS, Ledger, group_id
from bench.records import stamped

Record = dict[str, Any]
SUITE, DIGEST = "tiny@1", "d" * 24


class Hand:
    """Writes records the way a run does, with a clock that ticks once a record; a later one replaces an earlier."""

    def __init__(self, year: int = 2026) -> None:
        self.records: list[Record] = []
        self.year = year

    def add(self, kind: str, **fields: Any) -> None:
        tick = len(self.records)
        record = {"kind": kind, **fields}
        if kind in SLOTS:
            record = Ledger(self.records).replacing(record)
        time = f"{self.year}-01-01T{tick // 60:02}:{tick % 60:02}:00Z"
        self.records.append(stamped({"time": time, **record})[0])

    def run(self, run_id: str, status: str, suite: str = SUITE, digest: str = DIGEST) -> None:
        environment = {"python": "3.11", "torch": "2.14", "device": "cpu", "threads": 2}
        self.add(
            "run", run_id=run_id, suite=suite, suite_digest=digest, argv=["run"], environment=environment, status=status
        )

    def member(
        self,
        label: str,
        prompt: str,
        seed: int = 0,
        *,
        suite: str = SUITE,
        digest: str = DIGEST,
        tier: str = "miniature",
        part: str = "4to1",
        control: bool = False,
        optimises: tuple[str, ...] = (),
        asked: str | None = None,
    ) -> str:
        """Plan a picture; returns its recipe id."""
        recipe_id = f"r-{label}-{prompt}-{seed}"
        self.add(
            "member",
            suite=suite,
            suite_digest=digest,
            tier=tier,
            part=part,
            label=label,
            recipe_id=recipe_id,
            prompt_set="tinyworld@1",
            prompt_id=prompt,
            seed=seed,
            preset=None,
            control=control,
            optimises=list(optimises),
            asked=asked,
        )
        return recipe_id

    def recipe(self, recipe_id: str) -> Record:
        _, label, prompt, seed = recipe_id.split("-")
        return {
            "prompt_id": prompt,
            "prompt": f"a photo of {prompt}",
            "negative": "",
            "seed": int(seed),
            "method": label,
            "canvas": {"width": 128, "height": 32, "loop": False},
            "method_version": "1",
            "method_source": "s",
            "params": {"steps": 4},
            "backbone": "world-sd",
            "weights": "w",
            "precision": "fp32",
        }

    def image(
        self,
        recipe_id: str,
        image_id: str | None = None,
        flags: tuple[str, ...] = (),
        nfe: int = 8,
        seconds: tuple[float, float] = (1.0, 0.5),
        peak: int | None = 1000,
    ) -> str:
        """Make the picture; returns its image id."""
        image_id = image_id or recipe_id.replace("r-", "i-")
        self.add(
            "image",
            recipe_id=recipe_id,
            recipe=self.recipe(recipe_id),
            image_id=image_id,
            run_id="run1",
            suite=SUITE,
            part="4to1",
            label=recipe_id.split("-")[1],
            prompt_set="tinyworld@1",
            width=128,
            height=32,
            flags=list(flags),
            cost={"nfe": nfe, "seconds": {"denoise": seconds[0], "decode": seconds[1]}, "peak_bytes": peak},
            preset=None,
            control=False,
            tier="miniature",
            optimises=[],
        )
        return image_id

    def failure(self, recipe_id: str, reason: str = "oom") -> None:
        self.add(
            "failure",
            recipe_id=recipe_id,
            recipe=self.recipe(recipe_id),
            run_id="run1",
            reason=reason,
            message="out of memory",
            attempt=1,
        )

    def score(
        self,
        image_id: str,
        values: list[list[Any]],
        metric: str = "gsd-dino",
        view: str = "tiles",
        extractor: str | None = "world-vit",
        prompt_id: str | None = None,
        source: str = "s",
        asked: str | None = None,
    ) -> None:
        self.add(
            "score",
            image_id=image_id,
            recipe_id=None,
            metric=metric,
            metric_version="1",
            metric_source=source,
            extractor=extractor,
            extractor_digest=extractor and "e" * 24,
            view=view,
            key="-".join(map(str, ("k", image_id, metric, view, prompt_id, asked, source))),
            asked=asked,
            params={},
            values=values,
            prompt_id=prompt_id,
        )

    def group(self, label: str, digest: str, part: str) -> str:
        """The pictures there are of a cell of the board."""
        ledger = Ledger(self.records)
        cells = [
            m for m in ledger.members.values() if (m["label"], m["suite_digest"], m["part"]) == (label, digest, part)
        ]
        made = [(m, ledger.images[m["recipe_id"]]) for m in cells if m["recipe_id"] in ledger.images]
        return group_id((m["prompt_id"], m["seed"], image["image_id"]) for m, image in made)

    def set_score(
        self,
        label: str,
        values: Record,
        n: int,
        metric: str = "kid",
        *,
        suite: str = SUITE,
        digest: str = DIGEST,
        part: str = "4to1",
    ) -> None:
        self.add(
            "set_score",
            suite=suite,
            suite_digest=digest,
            part=part,
            label=label,
            metric=metric,
            metric_version="1",
            extractor="world-cnn",
            extractor_digest="c" * 24,
            view="tiles",
            reference="panoramas",
            reference_id="p" * 24,
            params={},
            key=f"k-{label}-{metric}-{n}",
            group_id=self.group(label, digest, part),
            n=n,
            m=50,
            values=values,
        )
