"""Distances and qualities against torch-fidelity, clean-fid, lpips, torchmetrics and piq, on fixed pictures."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from oracles import materials
from oracles.materials import Place, pairs
from oracles.rewards import Compared

COUNT = 12  # pictures of a set


def _of(*names: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


def _sets() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of uint8 pictures (n, 96, 64, 3) that differ."""
    from tests.support import tiny

    first = np.stack(tiny.pictures(COUNT, 64, 96, seed=0))
    second = np.stack(tiny.pictures(COUNT, 64, 96, seed=1))
    return first, (0.7 * second).astype(np.uint8)


def _features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(2, 0.3, (120, 40)), rng.gamma(2.2, 0.3, (90, 40))


def torch_fidelity(place: Place) -> Compared:
    """FID, KID and IS from pictures to numbers, through one random Inception."""
    import torch
    from torch.utils.data import Dataset
    from torch_fidelity import calculate_metrics

    from bench.extractors.loading import build
    from bench.extractors.locate import Found
    from bench.metrics.distribution import frechet_distance, inception_scores, kernel_distance_subsets

    class Pictures(Dataset):
        def __init__(self, pictures: np.ndarray) -> None:
            self.pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()

        def __len__(self) -> int:
            return len(self.pictures)

        def __getitem__(self, i: int) -> torch.Tensor:
            return self.pictures[i]

    file = materials.inception(place.work / "inception.pth")
    ours, reference = _sets()
    said = calculate_metrics(
        input1=Pictures(ours), input2=Pictures(reference), cuda=False, isc=True, isc_splits=4, fid=True, kid=True,
        kid_subsets=10, kid_subset_size=8, feature_extractor_weights_path=str(file), verbose=False, cache=False,
        batch_size=8, save_cpu_ram=True,
    )  # fmt: skip
    names = ("frechet_inception_distance", "kernel_inception_distance_mean", "kernel_inception_distance_std",
             "inception_score_mean", "inception_score_std")  # fmt: skip

    def numbers(variant: str) -> np.ndarray:
        net = build(Found("inception", "inception", "", file, "", variant=variant))
        x, y = (net.embed(list(s)).astype(np.float64) for s in (ours, reference))
        scores = inception_scores(net.logits(net.embed(list(ours))), 4, 2020)
        return np.array([frechet_distance(x, y), *kernel_distance_subsets(x, y, 10, 8), scores.mean(), scores.std()])

    return Compared(_of("torch-fidelity"), numbers(""), np.array([said[n] for n in names]), numbers("clean"))


def clean_fid_distances(place: Place) -> Compared:
    """clean-fid's FID and KID of fixed features."""
    from cleanfid import fid

    from bench.metrics.distribution import frechet_distance, kernel_distance_subsets

    x, y = _features()
    np.random.seed(2020)  # noqa: NPY002  (clean-fid draws from numpy's global generator)
    theirs = np.array([fid.fid_from_feats(x, y), fid.kernel_distance(x, y, num_subsets=10, max_subset_size=50)])
    kid = {order: kernel_distance_subsets(x, y, 10, 50, order=order)[0] for order in ("clean-fid", "torch-fidelity")}
    distance = frechet_distance(x, y)
    control = np.array([distance, kid["torch-fidelity"]])
    return Compared(_of("clean-fid"), np.array([distance, kid["clean-fid"]]), theirs, control)


def clean_fid_resize(place: Place) -> Compared:
    """clean-fid's resize of fixed pictures to 299 px, every value."""
    from cleanfid.resize import build_resizer

    from bench.extractors.resize import clean_resize

    pictures = [rgb for _, rgb, _ in pairs(place)]
    theirs = np.stack([build_resizer("clean")(rgb) for rgb in pictures])
    ours = np.stack([clean_resize(rgb, 299, 299) for rgb in pictures])
    return Compared(_of("clean-fid", "pillow"), ours, theirs, ours.round())


def lpips(place: Place) -> Compared:
    """LPIPS of fixed pictures by each trunk, random below the learned heads."""
    import torch
    import torchvision
    from lpips import LPIPS

    from bench.extractors.loading import build
    from bench.extractors.locate import Found

    crops = list(_sets()[0][:4])
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1
    first, second = np.triu_indices(len(crops), 1)
    found = []
    known = torchvision.models
    trunks = {"alex": known.alexnet, "vgg": known.vgg16, "squeeze": known.squeezenet1_1}
    for net, make in trunks.items():
        torch.manual_seed(0)
        state = {k: v for k, v in make(weights=None).state_dict().items() if k.startswith("features.")}
        file = place.work / f"{net}.pth"
        torch.save(state, file)
        model = LPIPS(net=net, pnet_rand=True, verbose=False)
        named = {k: state["features." + k.partition(".")[2]] for k in model.net.state_dict()}
        model.net.load_state_dict(named)
        ours = build(Found(f"lpips-{net}", "lpips", "", file, net)).distances(crops)[first, second]
        with torch.no_grad():
            theirs = model(x[first], x[second]).flatten().numpy()
            unscaled = model((x[first] + 1) / 2, (x[second] + 1) / 2).flatten().numpy()  # [0, 1] is a known mistake
        found.append((ours, theirs, unscaled))
    return Compared(_of("lpips", "torchvision"), *(np.concatenate(column) for column in zip(*found)))


def torchmetrics_distances(place: Place) -> Compared:
    """torchmetrics' FID and IS of fixed features."""
    import torch
    from torchmetrics.image import FrechetInceptionDistance, InceptionScore

    from bench.metrics.distribution import frechet_distance, inception_scores

    class Same(torch.nn.Module):
        num_features = 40

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x, y = (a.astype(np.float32) for a in _features())
    fid = FrechetInceptionDistance(feature=Same())
    fid.set_dtype(torch.float64)
    fid.update(torch.from_numpy(y).double(), real=True)
    fid.update(torch.from_numpy(x).double(), real=False)
    score = InceptionScore(feature=Same(), splits=1)
    score.update(torch.from_numpy(x))
    theirs = np.array([float(fid.compute()), float(score.compute()[0])])
    ours = np.array([frechet_distance(x, y), float(inception_scores(x)[0])])
    control = np.array([frechet_distance(x[1:], y), float(inception_scores(x[1:])[0])])
    return Compared(_of("torchmetrics"), ours, theirs, control)


def clip_iqa(place: Place) -> Compared:
    """CLIP-IQA against torchmetrics on piq's copy of the network, with pictures of several sizes."""
    import torch
    from piq.feature_extractors import clip as piq_clip
    from torchmetrics.functional.multimodal import clip_iqa as theirs
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast

    from bench import extractors
    from bench.metrics.aesthetic import IQA_PROMPTS, iqa_probability

    vision = {"image_size": 224, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}
    folder = place.made("clip-iqa", lambda f: materials.openai_clip(f, vision, 64))
    words = place.made("clip-vocabulary", materials.clip_vocabulary)
    state = torch.load(folder / "clip.pt", weights_only=True)
    model = piq_clip.build_model(state).float()
    tokenizer = CLIPTokenizerFast.from_pretrained(words, model_max_length=77)
    theirs._get_clip_iqa_model_and_processor = lambda name: (model, CLIPProcessor(CLIPImageProcessor(), tokenizer))
    pictures = [rgb for _, rgb, _ in pairs(place)]
    said = [
        theirs.clip_image_quality_assessment(torch.from_numpy(p).permute(2, 0, 1)[None].float(), data_range=255.0)
        for p in pictures
    ]
    net: Any = extractors.load(f"iqa@{folder}")
    good, bad = net.embed_text(IQA_PROMPTS)
    ours = np.concatenate([iqa_probability(net.embed([p]), good, bad) for p in pictures])
    positioned: Any = extractors.load(f"clip@{folder}")  # the stock CLIP: with its position embedding, on squares
    control = np.concatenate([iqa_probability(positioned.embed([p]), good, bad) for p in pictures])
    return Compared(_of("torchmetrics", "piq", "transformers"), ours, np.array([float(s) for s in said]), control)
