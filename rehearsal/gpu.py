"""``python -m rehearsal.gpu``: ``start`` on full-size random weights on a GPU; forecast beside measurement.

Stable Diffusion 2.0's own shapes, DINOv2 ViT-B and LPIPS-VGG, drawn at random, laid out as released and fetched from a
mirror: two prompts by ``direct`` and ``multidiffusion`` at 2048x512, 50 steps, half precision. Seconds of a method are
forecast by the other method's rate, as ``plan --forecast --gpu measured`` does for methods without pictures; memory by
counting shapes. Numbers off by more than a quarter are faults. Under four minutes on one GPU of today; ``--quick`` goes
the same way on tiny networks, on any device, and compares without judging.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rehearsal.stand_in import prepare, settle

WITHIN = 0.25  # of the forecast
GIGA = 1e9


def full_size(folder: Path) -> None:
    """Stable Diffusion 2.0 base at random, the denoiser in the variant that the suite runs."""
    import torch

    from methods.backbones.loading import CONFIGS, part_class
    from rehearsal.mirror import clip_tokenizer, save

    parts = json.loads((CONFIGS / "sd20.json").read_text(encoding="utf-8"))["parts"]
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(where):
        unet, vae = (part_class(parts[p]["_class_name"]).from_config(parts[p]) for p in ("unet", "vae"))
        text = part_class(parts["text_encoder"]["architectures"][0])
        encoder = text(text.config_class(**parts["text_encoder"]))
    schedule = part_class(parts["scheduler"]["_class_name"]).from_config(parts["scheduler"])
    clip_tokenizer(folder / "tokenizer", "!")
    save(
        folder, "StableDiffusionPipeline", unet=unet.half(), vae=vae, scheduler=schedule, text_encoder=encoder,
        tokenizer="CLIPTokenizer",
    )  # fmt: skip
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))


def laid_out(work: Path, quick: bool) -> Path:
    """A mirror of what the suite ``start`` needs."""
    from bench.catalogue.needs import needed
    from bench.suites.load import load_suite
    from rehearsal import mirror, sizes

    if quick:
        prepare(work)
    else:
        settle(work)
        sizes.undigested(work)
        mirror.MAKERS["sd-2.0-base"] = full_size
    for model in needed(load_suite("start")):
        mirror.write(model, work / "mirror")
    return work / "mirror"


def compared(suite: Any, store: Any) -> list[dict[str, Any]]:
    """A row for each method: seconds of a picture and memory, forecast and measured."""
    from bench.pipeline.forecast import forecast, measured_rates

    counted = forecast(suite)
    rates = measured_rates(counted, suite, store)
    costs = {label: [r["cost"] for r in store.ledger().images.values() if r["label"] == label] for label in rates}
    rows = []
    for row in counted:
        others = [rate for label, rate in rates.items() if label != row.method]
        spent = median(sum(cost["seconds"].values()) for cost in costs[row.method])
        peaks = [cost["peak_bytes"] for cost in costs[row.method] if cost["peak_bytes"]]
        rows.append({
            "method": row.method, "forecast s": (row.attention + row.other) / median(others), "measured s": spent,
            "forecast GB": row.peak / GIGA, "measured GB": max(peaks) / GIGA if peaks else None,
        })  # fmt: skip
    return rows


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """What was measured, or could not be, further from its forecast than :data:`WITHIN`."""
    found = []
    for row in rows:
        for unit in ("s", "GB"):
            said, seen = row[f"forecast {unit}"], row[f"measured {unit}"]
            if seen is None or abs(seen / said - 1) > WITHIN:
                found.append(f"{row['method']}: {seen} {unit} where {said:.3g} were forecast")
    return found


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s rehearsal -- --gpu")
    parser.add_argument("--quick", action="store_true", help="tiny networks, any device, nothing judged")
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scrollbench-gpu-") as folder:
        work = Path(folder)
        mirror = laid_out(work, told.quick)
        import bench

        laid, store = time.monotonic(), bench.Store(work / "store")
        done = bench.start(
            store, lambda question: True, mirror=mirror, precision="fp32" if told.quick else None, ahead=(),
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
        if done.suite.tier != "full":
            parser.error("no GPU is here; --quick goes the same way on tiny networks")
        rows = compared(done.suite, store)
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    now = time.monotonic()
    print(f"on {done.device}: weights laid out in {laid - begun:.0f} s, then {now - laid:.0f} s")
    wrong = [] if told.quick else faults(rows)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
