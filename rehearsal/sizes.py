"""Where the code knows a released network by name or number, a small one in its place; and suites of that size.

Both are for the process of a rehearsal only, and put in place by :func:`shrink`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

FACTOR = 8  # sides are so much smaller
DINO = "vit_base_patch14_dinov2"
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
_EYES = {"image_size": 224, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32}
CLIPS: dict[str, dict[str, Any]] = {  # by open_clip's names
    name: {"embed_dim": 16, "vision_cfg": eyes, "text_cfg": _TEXT, "quick_gelu": name.endswith("quickgelu")}
    for name, eyes in {
        "ViT-B-16-quickgelu": _EYES, "ViT-L-14-quickgelu": _EYES, "ViT-H-14": _EYES,
        "RN50-quickgelu": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    }.items()
}  # fmt: skip
T5: dict[str, Any] = {
    "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
}  # fmt: skip
LLAMAGEN: dict[str, dict[str, Any]] = {
    "gpt": {
        "_class_name": "LlamaGenGPT", "dim": 32, "n_layer": 2, "n_head": 2, "vocab_size": 256, "block_size": 16,
        "cls_token_num": 120, "caption_dim": 32, "multiple_of": 16,
    },
    "vq": {
        "_class_name": "LlamaGenVQ", "codebook_size": 256, "codebook_embed_dim": 8, "ch": 32, "ch_mult": [1] * 5,
        "num_res_blocks": 1, "z_channels": 16,
    },
    "t5": {"architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": 32, "vocab_size": 300, **T5},
}  # fmt: skip
SHAPES = {  # packaged shapes of a network -> the manifest's name of it
    "sd15": "sd-1.5", "sd20": "sd-2.0-base", "sd21": "sd-2.1-base", "sdxl": "sdxl-base", "flux-dev": "flux.1-dev",
    "flux-krea": "flux.1-krea-dev", "sd35-large": "sd-3.5-large", "sd35-medium": "sd-3.5-medium",
    "pixart-sigma": "pixart-sigma-1024", "wan-1.3b": "wan2.1-t2v-1.3b",
}  # fmt: skip


def shrink(work: Path) -> None:
    """Put small networks behind the released names, and random weights beyond the manifest's digests."""
    undigested(work)
    _scorers(work)
    _backbones(work / "mirror")


def undigested(work: Path) -> None:
    """The manifest without digests: random weights have none that were published."""
    from bench.extractors.weights import manifest

    text = manifest.MANIFEST.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("digests = ")]
    file = work / "weights.toml"
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    manifest.load_manifest.__wrapped__.__defaults__ = (file,)
    manifest.load_manifest.cache_clear()


def _scorers(work: Path) -> None:
    import open_clip
    from timm.models import _registry, vision_transformer

    from bench.extractors import catalogue, style

    folder = work / "open_clip"
    folder.mkdir(exist_ok=True)
    for name, config in CLIPS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    sizes: dict[str, Any] = dict(patch_size=14, embed_dim=24, depth=2, num_heads=2, init_values=1.0, img_size=518)

    def small(pretrained: bool = False, **given: Any) -> Any:
        return vision_transformer._create_vision_transformer(DINO, pretrained=pretrained, **sizes | given)

    _registry._model_entrypoints[DINO] = small
    style.SIZE //= FACTOR
    for name, spec in catalogue.NAMES.items():
        if spec.role == "lpips" and spec.variant == "512":
            catalogue.NAMES[name] = replace(spec, variant=str(512 // FACTOR))


def _backbones(mirror: Path) -> None:
    from bench.extractors.weights.manifest import load_manifest
    from methods.backbones import loading
    from methods.backbones.flux import Flux
    from methods.backbones.llamagen import convert
    from methods.backbones.wan import Wan

    _defaults(Flux.__init__)["window"] = 2 * FACTOR
    _defaults(Wan.__init__)["native"] = (15, FACTOR, FACTOR)
    convert.released = lambda: LLAMAGEN
    read = loading._configs

    def written(config: str | Path) -> dict[str, Any]:
        """What a forecast counts on: the networks of the mirror in place of the released ones."""
        known = SHAPES.get(str(config))
        return read(mirror / load_manifest()[known].repository if known else config)

    loading._configs = written


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return function.__kwdefaults__ or {}
