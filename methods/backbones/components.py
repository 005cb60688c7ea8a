"""Components of diffusers pipelines: checked folders, complete weights, and the same modules without numbers.

Every part loads through its own ``from_pretrained`` from one local folder, safetensors only, so that neither a network,
a safety checker nor pickles are touched. Full-size configurations ship as ``configs/NAME.json``, so that a cost can be
known before a download.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, ScrollBenchError, UsageError
from bench.weights import offline
from methods.backbones.weights import Layout, Part, locate, quiet

if TYPE_CHECKING:
    import torch

CONFIGS = Path(__file__).parent / "configs"


def load_parts(
    model: str, revision: str | None, layout: Layout, dtypes: Mapping[str, torch.dtype] | None = None
) -> tuple[str, dict[str, Any]]:
    """(weights digest, parts) of a folder or hub repository; ``scheduler`` is its config.

    Args:
        model: a folder, or ``owner/name`` of a repository in the local cache; nothing is asked of the network.
        revision: branch, tag or commit of a hub repository; the manifest's, else ``main`` where None.
        layout: the parts and the classes they must be.
        dtypes: dtype to load a part in; float32 where not given.

    Raises:
        UsageError: a folder of another kind, files that are torn, tensors missing.
        PrerequisiteError: a repository that is not in the cache, or only in part.
    """
    weights = locate(model, revision, layout)
    try:
        with quiet(), offline():
            parts = {part: _load(weights.folder, part, layout[part], (dtypes or {}).get(part)) for part in layout}
    except ScrollBenchError:
        raise
    except Exception as error:  # safetensors, json and the loaders each have errors of their own
        raise UsageError(f"{weights.source}: the weights do not load: {error}") from error
    return weights.digest, parts


def _load(folder: Path, part: str, expected: Part, dtype: Any) -> Any:
    import torch

    cls, here = part_class(expected.cls), {"subfolder": part, "local_files_only": True}
    if part == "scheduler":
        return cls.load_config(folder, **here)
    if not expected.weights:
        return cls.from_pretrained(folder, **here)
    options = {"use_safetensors": True, "output_loading_info": True, **here}
    key = "torch_dtype" if hasattr(cls, "_supported_kernels") or cls.__module__.startswith("diffusers") else "dtype"
    module, report = cls.from_pretrained(folder, **{key: dtype or torch.float32}, **options)
    if report["missing_keys"]:  # from_pretrained would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise UsageError(f"{folder}: {part} is partial: {len(missing)} tensors missing, first {missing[0]!r}")
    return module


def part_class(name: str) -> Any:
    """A class of diffusers or transformers by its name."""
    for library in ("diffusers", "transformers"):
        cls = getattr(import_module(library), name, None)
        if cls is not None:
            return cls
    raise PrerequisiteError(
        f"neither diffusers nor transformers has {name} here; pip install -U diffusers transformers"
    )


def blank_parts(config: str | Path) -> dict[str, Any]:
    """Every part on torch's meta device: full-size shapes without weights.

    Tokenizers are stand-ins that give token ids of the full length; the scheduler is its config.

    Args:
        config: name of a file in ``configs/``, or the folder of a pipeline, of which only the configs are read.
    """
    import torch

    parts: dict[str, Any] = {}
    for part, values in _configs(config).items():
        if part.startswith("tokenizer"):
            parts[part] = BlankTokenizer(int(values["model_max_length"]))
        elif part == "scheduler":
            parts[part] = values
        else:
            with torch.device("meta"):
                parts[part] = _blank(values)
    return parts


def _configs(config: str | Path) -> dict[str, Any]:
    if isinstance(config, str):
        known: dict[str, Any] = json.loads((CONFIGS / f"{config}.json").read_text(encoding="utf-8"))["parts"]
        return known
    names = ("config.json", "tokenizer_config.json", "scheduler_config.json")
    found = [p for folder in sorted(config.iterdir()) for n in names if (p := folder / n).is_file()]
    return {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in found}


def _blank(values: dict[str, Any]) -> Any:
    if "_class_name" in values:
        return part_class(values["_class_name"]).from_config(values)
    cls = part_class(values["architectures"][0])
    return cls(cls.config_class(**values))


class BlankTokenizer:
    """Stands in for a tokenizer where only shapes matter."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length
        self.added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text: str) -> list[str]:
        """No token of a text is special."""
        return []

    def batch_decode(self, ids: Any) -> list[str]:
        """Nothing to read in blank ids."""
        return []

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """Ids and mask (n, length) of zeros on the meta device, one token without padding."""
        import torch
        from transformers import BatchEncoding

        n = 1 if isinstance(text, str) else len(text)
        padded = options.get("padding") == "max_length"
        length = options.get("max_length") or self.model_max_length
        if not padded and "return_tensors" not in options:
            return BatchEncoding({"input_ids": [[0]] * n, "attention_mask": [[1]] * n})
        ids = torch.zeros((n, length if padded else 1), dtype=torch.long, device="meta")
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
