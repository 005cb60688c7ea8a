"""The suites that ship with ScrollBench: data only, found through the entry points ``scrollbench.suites``."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

start = _HERE / "start.toml"
miniature = _HERE / "miniature.toml"
miniature_width = _HERE / "miniature-width.toml"
pano_1k = _HERE / "pano-1k.toml"
panollama_table1 = _HERE / "panollama-table1.toml"
drspo_table1 = _HERE / "drspo-table1.toml"
drspo_table2 = _HERE / "drspo-table2.toml"
msd_fig4 = _HERE / "msd-fig4.toml"
scroll_32k = _HERE / "scroll-32k.toml"
scrollscape_table1 = _HERE / "scrollscape-table1.toml"
scrollscape_ablation = _HERE / "scrollscape-ablation.toml"
scale_dit_4k = _HERE / "scale-dit-4k.toml"
miniature_joint = _HERE / "miniature-joint.toml"
miniature_rows = _HERE / "miniature-rows.toml"
miniature_highres = _HERE / "miniature-highres.toml"
miniature_scaledit = _HERE / "miniature-scaledit.toml"
miniature_scaledit_squares = _HERE / "miniature-scaledit-squares.toml"
miniature_scrollscape = _HERE / "miniature-scrollscape.toml"
miniature_drspo = _HERE / "miniature-drspo.toml"
miniature_drspo_sweep = _HERE / "miniature-drspo-sweep.toml"
miniature_preferences = _HERE / "miniature-preferences.toml"
miniature_panollama = _HERE / "miniature-panollama.toml"
miniature_panollama_sweep = _HERE / "miniature-panollama-sweep.toml"
miniature_endless = _HERE / "miniature-endless.toml"
miniature_gate = _HERE / "miniature-gate.toml"
panollama_fig4 = _HERE / "panollama-fig4.toml"
panollama_fig5 = _HERE / "panollama-fig5.toml"
msd_fig5 = _HERE / "msd-fig5.toml"
msd_fig6 = _HERE / "msd-fig6.toml"
