"""What is to be done: wanted - done - quarantined. Making a plan loads no network and changes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from bench.errors import PrerequisiteError, UsageError, near
from bench.ids import digest, recipe_id
from bench.noise import Noise
from bench.registry import FAMILIES, find
from bench.source import source_digest
from bench.store import Store
from bench.store.ledger import Ledger, asked_id
from bench.store.records import Record, no_cycles
from bench.suites.natives import drawn
from bench.suites.suite import Suite
from bench.suites.values import MethodUse, Where
from bench.types import FrozenDict, Prompt, Recipe

# What decides a sampler's pictures, apart from the question asked.
SAMPLER = ("method", "method_version", "method_source", "params", "backbone", "backbone_source", "weights", "precision")
TO_RGB = "bench.pipeline.maker:to_rgb"  # every picture goes through it
ATTEMPTS = 3  # failures after which a recipe is left alone until something about it changes


@dataclass(frozen=True, eq=False)
class Job:
    """One picture for one cell of a suite: plain data, to be sent to whoever makes it."""

    suite: str  # name@version
    suite_digest: str
    tier: str
    part: str
    prompt_set: str  # name@version
    recipe: Recipe
    prompt: Prompt
    use: MethodUse
    turn: int  # its place among the pictures of its part and method
    asked: str  # identity of what the prompt asks for
    sampler: str  # identity of what answers it
    recipe_id: str  # identity of the work; two cells may share it, and then share the picture

    def work(self) -> Record:
        """What every record of this work begins with."""
        return {"recipe_id": self.recipe_id, "recipe": recipe_record(self.recipe)}

    def failure(self, reason: str, message: str, final: bool = False) -> Record:
        """The record of a picture that was not made. ``final``, not kept: another try now would end the same way."""
        return {"kind": "failure", **self.work(), "reason": reason, "message": message, "final": final}

    def cell(self) -> Record:
        """Where the picture belongs: the fields of a ``member`` record, without its kind."""
        return {
            "suite": self.suite, "suite_digest": self.suite_digest, "tier": self.tier,
            "part": self.part, "label": self.use.label, "recipe_id": self.recipe_id,
            "prompt_set": self.prompt_set, "prompt_id": self.prompt.id, "seed": self.recipe.seed,
            "preset": self.use.preset, "control": self.use.control, "optimises": list(self.use.method.optimises),
            "asked": self.asked, "turn": self.turn, "sampler": self.sampler,
        }  # fmt: skip


@dataclass(frozen=True)
class Blocked:
    """The cells of a method and part whose backbone's weights are not here, so that they have no recipes yet.

    ``pictures`` counts those of all shards; ``reason`` holds the command that fetches the weights.
    """

    part: str
    label: str
    backbone: str
    pictures: int
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Work of one suite on one store, as things stand.

    Attributes:
        cells: every cell of the suite (of this shard) that has a recipe, in the suite's order, then those of its
            native squares (bench.suites.natives); cells may share one.
        wanted: a job for every recipe, grouped by backbone.
        jobs, done, quarantined: wanted, split into what is to do (a picture of every new sampler first), what is there,
            and what failed too often.
        attempts: recipe id -> failures so far.
        blocked: what must be fetched before it can be planned; the rest goes on without.
        sources: weights digest -> where those weights are from; provenance for the record of a run.
    """

    suite: Suite
    cells: tuple[Job, ...]
    wanted: tuple[Job, ...]
    jobs: tuple[Job, ...]
    done: tuple[Job, ...]
    quarantined: tuple[Job, ...]
    attempts: Mapping[str, int]
    blocked: tuple[Blocked, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


def make_plan(
    suite: Suite, store: Store, shard: tuple[int, int] | None = None, retry: bool = False, natives: bool = True
) -> Plan:
    """Compare what a suite wants with what a store has.

    Args:
        suite: resolved; its methods are imported now.
        store: may be empty or not exist yet.
        shard: (i, n) with i from 1 to n: only the recipes whose id falls to this machine.
        retry: try quarantined recipes once more.
        natives: also what its references of native squares need.

    Raises:
        UsageError: a method that cannot run on its backbone, wrong knobs, a shard out of range.
        StoreError: damaged records.
    """
    with no_cycles():
        cells, blocked, sources = _cells(drawn(suite) if natives else (suite,))
        if shard is not None:
            i, n = shard
            if not 1 <= i <= n:
                raise UsageError(f"--shard takes I/N with I from 1 to N, got {i}/{n}")
            cells = tuple(c for c in cells if int(c.recipe_id, 16) % n == i - 1)
        ledger = store.ledger()
        unique = {c.recipe_id: c for c in reversed(cells)}  # the first cell that wants a recipe speaks for it
        ordered = [unique[i] for i in dict.fromkeys(c.recipe_id for c in cells)]
        wanted = sorted(ordered, key=_network)  # stable, so a backbone is loaded once
        done: list[Job] = []
        jobs: list[Job] = []
        given_up: list[Job] = []
        attempts: dict[str, int] = {}
        for job in wanted:
            if _has(job, ledger, store):
                done.append(job)
                continue
            attempts[job.recipe_id] = ledger.attempts(job.recipe_id)
            (given_up if attempts[job.recipe_id] >= ATTEMPTS and not retry else jobs).append(job)
        jobs = _firsts_first(jobs, {job.sampler for job in done})
        return Plan(suite, cells, tuple(wanted), tuple(jobs), tuple(done), tuple(given_up), attempts, blocked, sources)


def _firsts_first(jobs: list[Job], known: set[str]) -> list[Job]:
    """A picture of every sampler that has made none, so that one that cannot work is known early; then the others.

    Those begin with what needs no network, and with the network that is loaded by then.
    """
    firsts = list({job.sampler: job for job in reversed(jobs) if job.sampler not in known}.values())[::-1]
    loaded = _network(firsts[-1]) if firsts else None
    first = {job.recipe_id for job in firsts}
    rest = [job for job in jobs if job.recipe_id not in first]
    return [*firsts, *sorted(rest, key=lambda job: bool(job.recipe.backbone) and _network(job) != loaded)]


def _network(job: Job) -> tuple[str, ...]:
    """What of a recipe decides which network is loaded for it."""
    recipe = job.recipe
    return (recipe.backbone or "", recipe.weights or "", recipe.precision or "")


def _has(job: Job, ledger: Ledger, store: Store) -> bool:
    heads = ledger.heads("image", (job.recipe_id,))
    return bool(heads) and any(store.has_image(r["image_id"]) for r in heads)


def _cells(suites: Iterable[Suite]) -> tuple[tuple[Job, ...], tuple[Blocked, ...], dict[str, str]]:
    known: dict[str, _Backbone] = {}
    cells: list[Job] = []
    blocked: list[Blocked] = []
    sources: dict[str, str] = {}
    for suite, use in ((s, u) for s in suites for u in s.methods):
        backbone = known.setdefault(network_id(use), _Backbone(use))
        try:
            identity: dict[str, Any] = {
                "method": use.method.name, "method_version": use.method.version,
                "method_source": method_source(use), **backbone.identity(use, suite),
            }  # fmt: skip
            identity["params"] = FrozenDict({**use.params, **backbone.required(use, suite)})  # one for all its recipes
        except PrerequisiteError as error:
            for part in suite.parts:
                pictures = len(part.prompts.prompts) * len(suite.seeds)
                blocked.append(Blocked(part.name, use.label, str(use.backbone), pictures, str(error)))
            continue
        if not use.control and (source := getattr(backbone.info, "source", "")):
            sources[backbone.info.weights_digest] = source
        # of controls too, whose precision is a recipe's own
        sampler = sampler_digest({"precision": "fp32", **identity})
        for part in suite.parts:
            prompts = part.prompts.prompts
            place = (suite.ref, suite.digest, suite.tier, part.name, f"{part.prompts.name}@{part.prompts.version}")
            asked = [asked_id(p) for p in prompts]
            truths = [digest(dict(p.attributes)) if use.control else None for p in prompts]
            for s, seed in enumerate(suite.seeds):
                for i, p in enumerate(prompts):
                    recipe = Recipe(p.id, p.text, p.negative, part.canvas, seed, **identity, attributes=truths[i])
                    turn = s * len(prompts) + i
                    cells.append(Job(*place, recipe, p, use, turn, asked[i], sampler, recipe_id(recipe)))
    return tuple(cells), tuple(blocked), sources


def method_source(use: MethodUse) -> str:
    """Digest of the source that makes a method's pictures, one by one or several at once."""
    together = [use.method.together] if use.method.together else []
    return source_digest(use.method.fn, *together, Noise, TO_RGB)


def sampler_digest(fields: Mapping[str, Any]) -> str:
    """Identity of a sampler: the digest of its ``SAMPLER`` fields; knobs of no value (None) do not count."""
    params = {k: v for k, v in (fields.get("params") or {}).items() if v is not None}
    return digest(["sampler", {**{name: fields.get(name) for name in SAMPLER}, "params": params}])


def network_id(use: MethodUse) -> str:
    """The same for two methods that one loaded backbone can serve."""
    return digest([use.backbone, dict(use.backbone_options)])


class _Backbone:
    """A backbone as recipes name it, looked up when the first method needs it."""

    def __init__(self, use: MethodUse) -> None:
        self.name, self.options = use.backbone, use.backbone_options

    @cached_property
    def factory(self) -> Any:
        return find("backbones", str(self.name))

    @cached_property
    def info(self) -> Any:
        return self.factory.describe(**self.options)

    @cached_property
    def source(self) -> str:
        """Digest of the adapter's source: how a network is called decides the pixels too."""
        return source_digest(getattr(self.factory, "load", self.factory))

    @cached_property
    def precision(self) -> str:
        """As asked for, else the factory's default."""
        options = getattr(self.factory, "options", None)
        if options is None:
            options = {p.name: p.default for p in inspect.signature(self.factory).parameters.values()}
        return str(self.options.get("precision", options.get("precision", "fp32")))

    def identity(self, use: MethodUse, suite: Suite) -> dict[str, Any]:
        """The backbone's fields of a recipe. Refuses a pair that cannot work before anything is loaded."""
        if use.control:
            return {}
        family = use.method.family
        if self.name is None:
            raise UsageError(
                f"method {use.label!r} (family {family}) needs a backbone and suite {suite.ref} names none; "
                f"add backbone = NAME to {suite.file}"
            )
        if self.info.family != family:
            raise UsageError(
                f"method {use.label!r} samples in family {family!r}, backbone {self.name!r} is of family "
                f"{self.info.family!r}; {near(family, FAMILIES)} Pick a method or a backbone of the same family"
            )
        return {
            "backbone": self.info.name, "backbone_source": self.source, "weights": self.info.weights_digest,
            "precision": self.precision,
        }  # fmt: skip

    @cached_property
    def outline(self) -> Any:
        """The network to be loaded, on the meta device."""
        return self.factory.outline(**self.options)

    def required(self, use: MethodUse, suite: Suite) -> dict[str, Any]:
        """Digests of what else a method is made of; refuses knobs and canvases that cannot work on this network."""
        named: dict[str, Any] = {}
        if use.method.requires is None:
            return named
        for part in suite.parts:
            with Where(f"{suite.file}: method {use.label!r}, part {part.name!r}"):
                named |= use.method.requires(lambda: self.outline, part.canvas, use.params)
        return named


def recipe_record(recipe: Recipe) -> Record:
    """A recipe as records hold it."""
    return asdict(recipe)
