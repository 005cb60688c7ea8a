r"""The released LlamaGen files, rewritten as one folder of safetensors.

    scrollbench weights fetch llamagen-t2i flan-t5-xl
    python -m methods.backbones.llamagen.convert --out DIR

    DIR/gpt/model.safetensors  config.json     the transformer, released names and number types
    DIR/vq/model.safetensors   config.json     the image tokenizer
    DIR/t5/...                                 text encoder and its tokenizer, in the layout of transformers

The sources are the fetched files, or others that ``--gpt``, ``--vq`` and ``--t5`` name. The released ones are pickles:
only tensors and plain containers are read from them, anything else is refused. The release was not at hand; its layout
is taken from the loading code published with it (``model``, ``module`` or ``state_dict`` around the tensors).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from bench.errors import ScrollBenchError, UsageError
from bench.extractors.weights.manifest import load_manifest, offline, require
from methods.backbones.identity import Part, quiet
from methods.backbones.loading import CONFIGS

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {"gpt": Part("LlamaGenGPT"), "vq": Part("LlamaGenVQ"), "t5": Part("T5EncoderModel")}
WRAPPERS = ("model", "module", "state_dict")
SHOWN = 5  # names of each kind in an error


def released() -> dict[str, dict[str, Any]]:
    """The full-size configuration of every part, from ``configs/llamagen.json``."""
    parts: dict[str, dict[str, Any]] = json.loads((CONFIGS / "llamagen.json").read_text(encoding="utf-8"))["parts"]
    return parts


def convert(
    gpt: Path | str,
    vq: Path | str,
    t5: Path | str,
    out: Path | str,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    drop: Sequence[str] = (),
) -> list[str]:
    """Write the folder that backbone ``llamagen`` loads.

    Args:
        gpt: the transformer's released file, ``t2i_XL_stage2_512.pt``.
        vq: the image tokenizer's, ``vq_ds16_t2i.pt``.
        t5: folder of ``google/flan-t5-xl`` with its tokenizer.
        out: folder to write; must not exist yet, or be empty. It appears when it is complete.
        config: sizes of ``gpt`` and ``vq`` where they are not the released ones.
        drop: names of tensors in ``gpt`` to leave out. The released code ignores surplus ones without a word;
            here they must be named.

    Returns:
        What was left out, a line for each source.

    Raises:
        UsageError: files that cannot be read, hold more than tensors, or are not of this architecture.
    """
    from safetensors.torch import save_file

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already; name a folder that does not exist yet")
    sizes = config or released()
    states, left = {}, []
    for part, source in (("gpt", Path(gpt)), ("vq", Path(vq))):
        states[part], rest = read_checkpoint(source)
        for name in drop if part == "gpt" else ():
            if states[part].pop(name, None) is not None:
                rest.append(name)
        if rest:
            left.append(f"{part}: {', '.join(rest)}")
        wrong = mismatch(blank(part, sizes[part]), states[part])
        if wrong:
            surplus = "; leave out what is known to be surplus with --drop NAME" if part == "gpt" else ""
            raise UsageError(f"{source} is not the {part} of LlamaGen: {wrong}{surplus}")
    making = out.with_name(out.name + ".part")
    shutil.rmtree(making, ignore_errors=True)
    try:
        for part, state in states.items():
            (making / part).mkdir(parents=True)
            save_file({k: v.contiguous() for k, v in state.items()}, making / part / "model.safetensors")
            (making / part / "config.json").write_text(json.dumps(dict(sizes[part]), indent=1) + "\n", encoding="utf-8")
        left += _convert_t5(Path(t5), making / "t5")
        if out.exists():
            out.rmdir()
        making.rename(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return left


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors by name, names of whatever lies beside them) of a released file. Raises ``UsageError``."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UnpicklingError as error:
        raise UsageError(
            f"{path} holds more than tensors, or is no torch file, and is not loaded: "
            f"{str(error).strip().splitlines()[0]} Expected the file as it was released"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise UsageError(f"{path} is torn or no torch file: {error}") from error
    rest: list[str] = []
    if isinstance(found, dict):
        wrapper = next((w for w in WRAPPERS if isinstance(found.get(w), dict)), None)
        if wrapper is not None:
            rest = sorted(str(k) for k in found if k != wrapper)
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(torch.is_tensor(v) for v in found.values()):
        raise UsageError(f"{path} holds no table of tensors, alone or under one of {', '.join(WRAPPERS)}")
    return found, rest


def blank(part: str, config: Mapping[str, Any]) -> Any:
    """The module of part ``gpt`` or ``vq`` on the meta device. Raises ``UsageError`` on sizes that make none."""
    import torch

    kind: Any
    make: Any
    from methods.backbones.llamagen.gpt import GPT, GPTConfig  # imports torch, and plans need identities only
    from methods.backbones.llamagen.vq import VQ, VQConfig  # the same

    kind, make = {"gpt": (GPTConfig, GPT), "vq": (VQConfig, VQ)}[part]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "_class_name"}
    try:
        with torch.device("meta"):
            return make(kind(**given))
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        known = ", ".join(f.name for f in fields(kind))
        raise UsageError(f"the {part} config of LlamaGen does not work: {error}; it has {known}") from error


def mismatch(module: Any, state: Mapping[str, Tensor]) -> str:
    """What keeps tensors from filling a module, all of it in one line; empty where they fit exactly."""
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    both = [k for k in wanted if k in found]
    wrong = {
        "missing": [k for k in wanted if k not in found],
        "unexpected": [k for k in found if k not in wanted],
        "of another shape": [f"{k} {found[k]}, expected {wanted[k]}" for k in both if found[k] != wanted[k]],
    }
    return "; ".join(f"{len(names)} tensors {how}: {_some(names)}" for how, names in wrong.items() if names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _convert_t5(source: Path, out: Path) -> list[str]:
    from transformers import AutoTokenizer, T5EncoderModel

    if not source.is_dir():
        raise UsageError(f"no folder {source}; expected flan-t5-xl as `hf download google/flan-t5-xl` gives it")
    try:
        with quiet(), offline():
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
            encoder, report = T5EncoderModel.from_pretrained(
                source, dtype="auto", local_files_only=True, output_loading_info=True
            )
            if report["missing_keys"]:
                raise UsageError(f"{source}: the text encoder lacks {_some(sorted(report['missing_keys']))}")
            encoder.save_pretrained(out)
            tokenizer.save_pretrained(out)
    except (OSError, ValueError, UnpicklingError) as error:
        raise UsageError(f"{source} does not load as a T5 folder with its tokenizer: {error}") from error
    kinds = json.loads((source / "config.json").read_text(encoding="utf-8")).get("architectures")
    return [] if kinds == ["T5EncoderModel"] else ["t5: the decoder"]


def from_fetched(out: Path) -> list[str]:
    """:func:`convert` of the files that were fetched."""
    return convert(*_sources(None, None, None), out)


def _sources(gpt: Path | None, vq: Path | None, t5: Path | None) -> tuple[Path, Path, Path]:
    """The files as named, those that were fetched for the others. Raises ``PrerequisiteError`` where they were not."""
    wanted = {"llamagen-t2i": gpt is None or vq is None, "flan-t5-xl": t5 is None}
    found = require(*(load_manifest()[name] for name, missing in wanted.items() if missing))
    folders = {f.model.name: f.folder for f in found}
    tokens, text = folders.get("llamagen-t2i", Path()), folders.get("flan-t5-xl", Path())
    return gpt or tokens / "t2i_XL_stage2_512.pt", vq or tokens / "vq_ds16_t2i.pt", t5 or text


def main(argv: Sequence[str] | None = None) -> int:
    """The command line above; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m methods.backbones.llamagen.convert",
        description="Rewrite released LlamaGen files as safetensors.",
    )
    parser.add_argument("--gpt", type=Path, help="t2i_XL_stage2_512.pt, if not the fetched one")
    parser.add_argument("--vq", type=Path, help="vq_ds16_t2i.pt, if not the fetched one")
    parser.add_argument("--t5", type=Path, help="folder of google/flan-t5-xl, if not the fetched one")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--config", type=Path, help="sizes that are not the released ones: JSON with gpt and vq")
    parser.add_argument("--drop", action="append", default=[], metavar="NAME", help="a surplus tensor to leave out")
    given = parser.parse_args(argv)
    try:
        sizes = json.loads(given.config.read_text(encoding="utf-8")) if given.config else None
        left = convert(*_sources(given.gpt, given.vq, given.t5), given.out, config=sizes, drop=given.drop)
    except ScrollBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join([given.out, *(f"left out of {line}" for line in left)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
