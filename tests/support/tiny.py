"""Tiny random networks, saved in the layouts of the real loaders. No trained weights are needed anywhere."""

import json
from pathlib import Path

import numpy as np
import torch


def pictures(n: int, width: int = 32, height: int = 32, seed: int = 0) -> list[np.ndarray]:
    """Smooth random uint8 pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, height // 4 + 2, width // 4 + 2, 3))
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, :height, :width]
    return list((255 * fine).astype(np.uint8))


def vit(folder: Path, seed: int = 0) -> Path:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0
    )
    args = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    config = {"input_size": (3, 32, 32), "fixed_input_size": True, "num_classes": 0}
    model.pretrained_cfg.update(config)
    save_for_hf(model, str(folder), model_args=args, safe_serialization=True)
    return folder


def cnn(folder: Path, seed: int = 0) -> Path:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=5)
    model.pretrained_cfg.update({"input_size": (3, 32, 32), "num_classes": 5})
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def clip(folder: Path, seed: int = 0) -> Path:
    import open_clip
    from safetensors.torch import save_model

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_model(open_clip.CLIP(**config), str(folder / "open_clip_model.safetensors"))
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def lpips(folder: Path, seed: int = 0) -> Path:
    import lpips
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = lpips.LPIPS(net="squeeze", lpips=False, pnet_rand=True, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"net": "squeeze", "lpips": False}))
    return folder
