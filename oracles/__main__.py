"""``python -m oracles --rewards PYTHON``: run every check, print the table, exit 1 if one differs by more than 1e-4."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub

import numpy as np

from oracles import fidelity, rewards, upscaling
from oracles.materials import Place

CHECKS = {
    "hps": rewards.hps,
    "image-reward": rewards.image_reward,
    "pick-score": rewards.pick_score,
    "clip-aesthetic": rewards.clip_aesthetic,
    "clip-iqa": fidelity.clip_iqa,
    "lpips": fidelity.lpips,
    "fid-kid-is": fidelity.torch_fidelity,
    "fid-kid features": fidelity.clean_fid_distances,
    "clean resize": fidelity.clean_fid_resize,
    "fid-is features": fidelity.torchmetrics_distances,
    "real-esrgan": upscaling.real_esrgan,
    "real-esrgan tiles": upscaling.tiles,
}


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of a from b, relative where b is above 1."""
    return float((np.abs(a - b) / np.maximum(1, np.abs(b))).max())


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s oracles --")
    parser.add_argument("--rewards", type=Path, required=True, help="python of the environment of the originals")
    parser.add_argument("--weights", type=Path, help="folder of official files, a subfolder a check (docs/oracles.md)")
    parser.add_argument("--only", action="append", choices=sorted(CHECKS), help="this check; may be repeated")
    parser.add_argument("--full", action="store_true", help="HPS and PickScore in their full size (slow, 8 GB)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    told = parser.parse_args()
    if told.weights and not told.weights.is_dir():
        parser.error(f"--weights: no folder {told.weights}")
    work = Path(tempfile.mkdtemp(prefix="scrollbench-oracles-"))
    place = Place(work, told.weights and told.weights.resolve(), told.rewards, told.full)
    rows, failed = [], []
    warnings.simplefilter("ignore")  # the originals' own
    print(f"{'check':<17}{'n':>7}  {'range of the original':<23}{'max diff':>10}{'control':>10}  weights; original")
    try:
        for name in told.only or CHECKS:
            start = time.monotonic()
            c = CHECKS[name](place)
            diff, control = gap(c.ours, c.theirs), gap(c.control, c.theirs)
            if not diff <= c.allowed:
                failed.append(f"{name}: differs from the original by {diff:.3g}, allowed is {c.allowed:g}")
            if not control > c.allowed:
                failed.append(f"{name}: a deliberate mistake differs by only {control:.3g}: the check shows nothing")
            spread = f"{c.theirs.min():.4g} to {c.theirs.max():.4g}"
            print(
                f"{name:<17}{c.theirs.size:>7}  {spread:<23}{diff:>10.2g}{control:>10.2g}  {c.weights}; {c.original}"
                f"  ({time.monotonic() - start:.0f} s)", flush=True,
            )  # fmt: skip
            row = {"check": name, "n": c.theirs.size, "least": float(c.theirs.min()), "most": float(c.theirs.max())}
            rows.append({**row, "diff": diff, "control": control, "weights": c.weights, "original": c.original})
    finally:
        shutil.rmtree(work)
    if told.out:
        told.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
