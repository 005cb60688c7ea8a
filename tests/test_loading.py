"""What is loaded is what was planned, for every family: behind a hub whose main has moved, and without a network."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakehub
import pytest
import torch
from fakehub import cached, written
from small import SUITE, small
from tiny_pipelines import (
    as_released,
    changed,
    numbers,
    shard,
    write_flux,
    write_pixart,
    write_sd3,
    write_sdxl,
    write_wan,
)

from bench import extractors, run
from bench.errors import PrerequisiteError, UsageError
from bench.plan import make_plan
from bench.registry import find
from bench.run import generate
from bench.store import Store
from bench.weights import load_manifest, offline, snapshot, state
from bench.weights_fetch import fetch
from methods.backbones import components
from methods.backbones.llamagen_convert import main as convert_main
from methods.backbones.tiny import write_tiny_sd
from methods.backbones.tiny_llamagen import SIZES, write_tiny_llamagen

WRITERS: dict[str, Callable[[Path], Path]] = {
    "sd-1.5": write_tiny_sd, "sd-2.0-base": write_tiny_sd, "sd-2.1-base": write_tiny_sd, "sdxl-base": write_sdxl,
    "sd-3.5-medium": write_sd3, "sd-3.5-large": write_sd3, "flux.1-dev": write_flux, "flux.1-krea-dev": write_flux,
    "pixart-sigma-1024": write_pixart, "wan2.1-t2v-1.3b": write_wan, "wan2.1-t2v-14b": write_wan,
}  # fmt: skip
BACKBONES = dict(
    zip(
        WRITERS,
        ("sd15", "sd20", "sd21", "sdxl", "sd35-medium", "sd35-large", "flux-dev", "flux-krea", "pixart-sigma",
         "wan-1.3b", "wan-14b"),
    )
)  # fmt: skip
MOVED = "e" * 40


@pytest.fixture(scope="module")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[[Path], Path], Path]:
    """A pipeline of every kind, to be copied."""
    return {write: write(tmp_path_factory.mktemp("pipeline")) for write in set(WRITERS.values())}


@pytest.fixture
def network(hub: fakehub.Hub, monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(hub, monkeypatch)


class Network:
    """What was asked of the hub or looked for elsewhere; ``cut`` takes the network away without a word."""

    def __init__(self, hub: fakehub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self.monkeypatch, self.hosts = hub, monkeypatch, list[str]()
        look_up = socket.getaddrinfo

        def noted(host: Any, *args: Any, **options: Any) -> Any:
            self.hosts.append(str(host))
            return look_up(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", noted)

    @property
    def asked(self) -> list[str]:
        """Requests that reached the hub, and hosts that were to be reached."""
        return [*self.hub.requests, *self.hosts]

    def forget(self) -> None:
        self.hub.requests.clear()
        self.hosts.clear()

    def cut(self) -> None:
        from huggingface_hub import constants, hf_api

        nowhere = "http://127.0.0.1:9"
        template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        self.monkeypatch.setattr(hf_api.api, "endpoint", nowhere)


class Released:
    """A model of the manifest on the hub: fetched, and then ``main`` moved on to other weights."""

    def __init__(self, network: Network, name: str, folder: Path) -> None:
        hub = network.hub
        self.model = load_manifest()[name]
        self.folder = as_released(folder, self.model)
        self.commit = self.model.revision if self.model.pinned else fakehub.COMMIT
        hub.add(self.model.repository, self.folder, self.commit)
        (found,) = fetch([self.model])
        assert found.state == "present"
        self.moved = changed(self.folder, folder.with_name("moved"))
        hub.add(self.model.repository, self.moved, MOVED)
        network.forget()


@pytest.fixture
def released(network: Network, tmp_path: Path, written_once: dict[Any, Path]) -> Callable[[str], Released]:
    def release(name: str) -> Released:
        return Released(network, name, Path(shutil.copytree(written_once[WRITERS[name]], tmp_path / "released")))

    return release


def agree(backbone: Any, folder: Path) -> bool:
    """Whether the denoiser and the decoder hold the numbers of a folder's files."""
    parts = {name: module for name, module in backbone.parts.items() if name in ("unet", "transformer", "vae")}
    assert len(parts) == 2
    found = {name: module.state_dict() for name, module in parts.items()}
    return all(torch.equal(found[name][k], v) for name in parts for k, v in numbers(folder / name).items())


@pytest.mark.parametrize("name", WRITERS)
def test_the_weights_that_were_planned_load_from_the_cache_wherever_main_has_gone(
    name: str, network: Network, released: Callable[[str], Released], capsys: pytest.CaptureFixture[str]
) -> None:
    r = released(name)
    factory = find("backbones", BACKBONES[name])
    planned = factory.describe()
    assert planned.source == f"{r.model.repository}@{r.commit}"
    assert planned.weights_digest == factory.describe(model=str(r.folder)).weights_digest  # a copy is the same weights
    assert planned.weights_digest != factory.describe(model=str(r.moved)).weights_digest
    loaded = factory()
    assert loaded.weights == planned.weights_digest
    assert agree(loaded, r.folder)
    assert not agree(loaded, r.moved)
    assert network.asked == []  # fetching was announced and is done
    network.cut()
    capsys.readouterr()
    again = factory()
    assert again.weights == planned.weights_digest
    assert agree(again, r.folder)
    assert capsys.readouterr().err == ""  # progress is the caller's to show


@pytest.mark.parametrize(("name", "part", "cls"), [
    ("sd-2.0-base", "unet", "UNet2DConditionModel"), ("flux.1-dev", "transformer", "FluxTransformer2DModel"),
])  # fmt: skip
def test_by_a_repositorys_name_the_library_would_ask_and_follow_main(
    name: str, part: str, cls: str, network: Network, released: Callable[[str], Released]
) -> None:
    """The control: the hub counts, its main is another, and shards do not load without it."""
    r = released(name)
    load = components.part_class(cls).from_pretrained
    followed = load(r.model.repository, subfolder=part, use_safetensors=True).state_dict()
    assert all(torch.equal(followed[k], v) for k, v in numbers(r.moved / part).items())
    assert len(network.hub.requests) > 2
    network.cut()
    shutil.rmtree(snapshot(r.model.repository, "main").parent / MOVED)
    if part == "transformer":
        with pytest.raises(Exception, match=r"."):
            load(r.model.repository, subfolder=part, use_safetensors=True, revision=r.commit)


def test_llamagen_is_fetched_converted_and_loaded_from_what_was_fetched(
    hub: fakehub.Hub, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from safetensors.torch import load_file

    folder = write_tiny_llamagen(tmp_path / "tiny")
    tokens, text = load_manifest()["llamagen-t2i"], load_manifest()["flan-t5-xl"]
    files = tmp_path / "files"
    files.mkdir()
    for part, file in (("gpt", "t2i_XL_stage2_512.pt"), ("vq", "vq_ds16_t2i.pt")):
        torch.save({"model": load_file(folder / part / "model.safetensors")}, files / file)
    whole = Path(shutil.copytree(folder / "t5", tmp_path / "t5"))
    shard(whole / "model.safetensors")
    for file in ("special_tokens_map.json", "spiece.model"):
        (whole / file).write_text("{}")
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    hub.add(tokens.repository, files)
    hub.add(text.repository, whole, text.revision)
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch llamagen-t2i flan-t5-xl && python -m"):
        find("backbones", "llamagen").describe(model=str(tmp_path / "made"))
    assert convert_main(["--out", str(tmp_path / "made")]) == 3
    assert "scrollbench weights fetch llamagen-t2i flan-t5-xl" in capsys.readouterr().err
    fetch([tokens, text])
    for repository in (tokens.repository, text.repository):
        hub.add(repository, written(tmp_path / "moved", {"another.bin": b"x"}), MOVED)
    network.forget()
    network.cut()
    made = str(tmp_path / "made")
    assert convert_main(["--out", made, "--config", str(tmp_path / "sizes.json")]) == 0
    llamagen = find("backbones", "llamagen")
    loaded = llamagen(model=made)
    assert loaded.weights == llamagen.describe(model=made).weights_digest
    for part, module in (("gpt", loaded.gpt), ("vq", loaded.vq)):
        assert all(torch.equal(module.state_dict()[k], v) for k, v in numbers(folder / part).items())
    assert network.asked == []


def test_a_repository_that_is_here_in_part_is_missing_for_plan_doctor_list_and_loader_alike(
    released: Callable[[str], Released], tmp_path: Path
) -> None:
    from bench.doctor import examine

    r = released("flux.1-dev")
    found = state(r.model)
    lost = next(f for f in found.files if f.startswith("transformer/") and f.endswith(".safetensors"))
    (found.folder / lost).unlink()
    text = SUITE.replace('"plugins.py@fake"', '"flux-dev"').replace('ref = "plugins.py@latent-grain"', 'ref = "direct"')
    suite = small(tmp_path / "suite", suite=text)
    lacking = state(r.model)
    assert (lacking.state, lacking.lacking) == ("partial", (lost,))
    with pytest.raises(PrerequisiteError) as refused:
        find("backbones", "flux-dev")()
    assert lacking.complaint in str(refused.value)
    assert str(refused.value).endswith("scrollbench weights fetch flux.1-dev")
    (blocked,) = make_plan(suite, Store(tmp_path / "store")).blocked
    assert blocked.reason == str(refused.value)
    (check,) = [c for c in examine(suite, Store(tmp_path / "store")) if c.what == "backbone flux-dev"]
    assert (check.state, check.detail, check.fix) == ("missing", lacking.complaint, lacking.fix)
    fetch([r.model])
    assert find("backbones", "flux-dev").describe().source.endswith(r.commit)


def test_a_branch_that_a_user_names_is_the_commit_the_cache_saw_and_other_weights(
    network: Network, released: Callable[[str], Released]
) -> None:
    r = released("sd-2.0-base")
    sd20 = find("backbones", "sd20")
    with pytest.raises(PrerequisiteError, match=f"--revision {MOVED}"):
        sd20.describe(revision=MOVED)
    fetch([r.model.model_copy(update={"revision": MOVED})])
    network.forget()
    other = sd20(revision=MOVED)
    assert agree(other, r.moved)
    assert other.weights == sd20.describe(revision=MOVED).weights_digest != sd20.describe().weights_digest
    assert network.asked == []


# -- the identity that was planned and the one that was loaded

DIRECT = """
[[methods]]
ref = "direct"
label = "plain"
set = { steps = 1 }
"""


def plain(folder: Path, model: str | None = None) -> Any:
    head = f'backbone_options = {{ model = "{model}" }}\n' if model else ""
    text = head + SUITE.replace('"plugins.py@fake"', '"sd20"').replace("height = 8", "height = 16")
    text = text.partition('[[methods]]\nref = "plugins.py@latent-grain"')[0] + DIRECT
    return small(folder, suite=text)


def pictures(plan: Any, store: Store) -> tuple[Any, set[str]]:
    """The result of generating a plan, and the ids of the pictures that the network made."""
    result = generate(plan, store)
    return result, {r["image_id"] for r in store.records() if r["kind"] == "image" and r["label"] == "plain"}


def test_weights_that_change_between_plan_and_loading_are_refused_and_planned_anew(tmp_path: Path) -> None:
    folder = write_tiny_sd(tmp_path / "sd")
    suite, store = plain(tmp_path / "suite", str(folder)), Store(tmp_path / "store")
    plan = make_plan(suite, store)
    changed(folder, tmp_path / "other")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "other", folder)
    result, made = pictures(plan, store)
    planned = next(j.recipe.weights for j in plan.jobs if j.use.label == "plain")
    assert made == set()
    assert {f.reason for f in result.failures} == {"prerequisite"}
    assert f"planned weights {planned}, loaded " in result.failures[0].message
    result, made = pictures(make_plan(suite, store), store)
    assert result.complete
    assert len(made) == 3
    (source,) = [r["weights"] for r in store.records() if r["kind"] == "run" and r["status"] == "started"][-1].values()
    assert source == str(folder)


def test_a_loader_that_follows_main_is_refused_where_its_pictures_would_pass_for_the_planned_ones(
    tmp_path: Path, released: Callable[[str], Released], monkeypatch: pytest.MonkeyPatch
) -> None:
    r = released("sd-2.0-base")
    fetch([r.model.model_copy(update={"revision": MOVED})])
    suite = plain(tmp_path / "suite")
    plan = make_plan(suite, Store(tmp_path / "right"))
    _, right = pictures(plan, Store(tmp_path / "right"))
    locate = components.locate
    monkeypatch.setattr(components, "locate", lambda model, revision, layout: locate(model, MOVED, layout))
    result, made = pictures(plan, Store(tmp_path / "refused"))
    assert (made, {f.reason for f in result.failures}) == (set(), {"prerequisite"})
    monkeypatch.setattr(run, "_check_loaded", lambda recipe, backbone: None)  # the control
    result, foreign = pictures(plan, Store(tmp_path / "foreign"))
    assert result.complete
    assert foreign.isdisjoint(right)


def test_a_backbone_that_does_not_say_what_it_loaded_is_refused(tmp_path: Path) -> None:
    from small import PLUGINS

    silent = PLUGINS.replace("    weights = Info.weights_digest\n", "")
    suite = small(tmp_path, plugins=silent)
    result = generate(make_plan(suite, Store(tmp_path / "store")), Store(tmp_path / "store"))
    assert "it does not say which (attribute weights)" in result.failures[0].message


# -- networks that metrics look through


@pytest.mark.parametrize("name", [n for n, spec in extractors.NAMES.items() if spec.repo])
def test_an_extractors_files_are_those_of_the_pinned_commit_wherever_main_has_gone(name: str, caches: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    for model in extractors.models(name):
        files = {f.replace("*", "x"): f.encode() for f in model.files}
        cached(caches, model, dict.fromkeys(files, b"moved"), MOVED)
        if model.pinned:
            cached(caches, model, files, model.revision)
            written(caches / "hub" / f"models--{model.repository.replace('/', '--')}", {"refs/main": MOVED})
    found = extractors.find(name)
    on_hub = [path for path in (found.path, *found.also) if "snapshots" in path.parts]
    spec = extractors.NAMES[name]
    assert len(on_hub) == sum(bool(part.repo) for part in (spec, *spec.also))
    revisions = {m.repository: m.revision if m.pinned else MOVED for m in extractors.models(name)}
    for path in on_hub:
        cache, commit = path.parts[path.parts.index("snapshots") - 1], path.parts[path.parts.index("snapshots") + 1]
        repository = cache.removeprefix("models--").replace("--", "/")
        assert commit == revisions[repository]
        assert MOVED in str(try_to_load_from_cache(repository, path.name))  # the control: what a name alone gives
    assert extractors.card(name)["present"]


def test_a_metrics_network_is_planned_and_loaded_from_the_pinned_commit_without_a_request(
    hub: fakehub.Hub, network: Network, tmp_path: Path, caches: Path
) -> None:
    from tiny_scorers import image_reward, owl, pick

    makers = {"image-reward": image_reward, "pick-score": pick, "owlv2-base": owl}
    for name, make in makers.items():
        folder = make(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "config.json", "merges.txt"):
            if not (folder / file).exists():
                (folder / file).write_text("{}")
        for model in extractors.models(name):
            hub.add(model.repository, folder, model.revision)
            fetch([model])
            hub.add(model.repository, make(tmp_path / f"{name}-moved", seed=1), MOVED)
        network.forget()
        expected = extractors.load(f"{extractors.role(name)}@{folder}")
        loaded = extractors.load(name)
        assert loaded.digest == extractors.find(name).digest
        mine, theirs = (e.vision if name == "image-reward" else e.model for e in (loaded, expected))
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())
        assert network.asked == []
    network.cut()
    for name in makers:
        assert extractors.load(name).digest == extractors.find(name).digest


def test_a_folder_whose_config_names_a_repository_is_refused_instead_of_followed(
    network: Network, tmp_path: Path
) -> None:
    import json

    import tiny

    folder = tiny.clip(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": "someone/text", "hf_model_pretrained": False}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="does not load from its own files"):
        extractors.load(f"clip@{folder}")
    assert network.asked == []


def test_offline_forbids_requests_inside_and_only_there(hub: fakehub.Hub, network: Network) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub.repos["someone/tiny"], hub.main["someone/tiny"] = {fakehub.COMMIT: {}}, fakehub.COMMIT
    with offline(), pytest.raises(OfflineModeIsEnabled):
        HfApi(endpoint=hub.url).model_info("someone/tiny")
    assert network.asked == []
    assert HfApi(endpoint=hub.url).model_info("someone/tiny").id == "someone/tiny"
