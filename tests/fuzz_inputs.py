"""Sound files of every kind that people write, for fuzz.py to damage."""

from __future__ import annotations

from typing import Any

SCENE = {"style": "ink", "biome": "sea", "time": "day", "weather": "clear", "unique": "sun", "counted": ["boat", 2]}
ROWS: list[dict[str, Any]] = [
    {"id": "pier-lamps", "text": "Three lamps along a pier, and one red boat.", "short": "lamps on a pier",
     "theme": "coast", "subtheme": "harbours", "style": "photo", "layout": "linear", "time": "night",
     "unique": "red boat", "counts": {"lamp": 3}},
    {"id": "reed-boat", "text": "A narrow boat moored in the reeds", "theme": "river", "subtheme": "reeds",
     "style": "ink", "layout": "linear", "time": None, "unique": None, "counts": {"boat": 1}, "negative": "people"},
    {"id": "slate-roof", "text": "Snow on a slate roof, seen from above", "theme": "town", "subtheme": "roofs",
     "style": "ink", "layout": "scattered", "time": "dawn", "unique": "slate roof", "scene": SCENE, "world": "snow"},
    {"id": "geese", "text": "Five geese cross a wet road", "theme": "town", "subtheme": "roads", "style": "photo",
     "layout": "linear", "time": "day", "unique": None, "counts": {"goose": 5}},
]  # fmt: skip
CARD = """title = "Mine"
licence = "CC0-1.0"
language = "en"
splits_wanted = [2]
[source]
file = "list.txt"
prompts = 4
[lint]
near_words = 0.4
openings = 5
per_subtheme = 1
templated = false
[splits]
few = ["geese", "reed-boat"]
2 = ["geese", "slate-roof"]
"""
BANNED = (
    '[[group]]\nreason = "no names"\nlevel = "warning"\nwords = ["ansel adams"]\npatterns = ["\\\\bby [A-Z]\\\\w+"]\n'
)
SUITE = """name = "mine"
version = "1"
tier = "miniature"
title = "Mine"
seeds = [0, 7]
backbone = "plugins.py@fake"
backbone_options = { precision = "fp32" }
defaults = { steps = 4 }
parts = [
  { name = "wide", width = 64, height = 32, prompts = "prompts.jsonl" },
  { name = "loop", width = 128, height = 32, loop = true, prompts = "scrollworld@1:theme=sea:2" },
]
methods = [
  { ref = "plugins.py@grain", preset = "fine", label = "Grain" },
  { ref = "plugins.py@latent-grain", set = { steps = 3 } },
  { ref = "world-blurred", set = { sigma = 1.5 } },
  { ref = "not-written-yet", planned = true, note = "whose paper" },
]
metrics = [
  { ref = "sharpness", view = "tiles:32" },
  { ref = "kid", view = "tiles", extractor = "world-vit", reference = "squares" },
  { ref = "plugins.py@brightness", label = "Light", set = { scale = 0.5 } },
]
[references.squares]
kind = "world"
width = 32
count = 20
prompts = "scrollworld@1"
seed = 1000
[gate.margins]
sharpness = 0.01
Light = 1
"""
FULL = """name = "full"
version = "2"
tier = "full"
seeds = 3
backbone = "sd20"
backbone_options = { precision = "fp16" }
defaults = { steps = 50, guidance = 7.5 }
protocol = "scrollbench-1"
parts = [{ name = "4to1", width = 2048, height = 512, prompts = "prompts.jsonl" }]
methods = [
  { ref = "direct", miniature = { steps = 2 } },
  { ref = "multidiffusion", preset = "stride-16" },
  { ref = "streammultidiffusion", backbone = "sd15", miniature = "no stand-in" },
]
metrics = [{ ref = "hps", view = "tiles", extractor = "hps-v2.1" }]
[references.base-sd20]
kind = "native"
width = 512
[miniature]
scale = 16
backbones = { sd15 = "world-sd" }
seeds = [0]
defaults = { steps = 10, guidance = 2.5, stride = 4 }
[miniature.references.panoramas]
kind = "world"
width = 256
count = 30
prompts = "scrollworld@1"
seed = 1000
[miniature.references.squares]
kind = "folder"
path = "pictures"
"""
MANIFEST = 'file,prompt_id,seed,part,note\na.png,pier-lamps,0,wide,"best of three"\nb.png,reed-boat,7,wide,\n'
MARGINS = "# Measured.\n[gate.margins]\nsharpness = 0.008 # floor 0.00396\nLight = 1\n"
PROTOCOL = """name = "mine"
title = "Mine"
source = "nobody"
metrics = [
  { ref = "kid", view = "tiles", extractor = "world-vit", reference = "squares", assumed = { view = "not said" } },
  { ref = "sharpness", view = "whole", label = "Edges", set = {} },
]
[references.squares]
kind = "folder"
path = "pictures"
planned = true
note = "fill it"
[left_out]
FID = "needs pictures"
"""
CLAIMS = """paper,table,method,metric,value,rank,direction,unit,canvas,setting,note,via,source
msd,fig4,MultiDiffusion,FID,33.52,2,lower,,1024x4096,"8 prompts, 500 each",,paper,arXiv:2410.18830
msd,fig4,MSD,FID,+27.1,1,lower,,1024x4096,"8 prompts, 500 each",a note,paper,arXiv:2410.18830
msd,fig4,MSD,CLIP score,,,higher,x100,1024x4096,,OOM on 24 GB,note,arXiv:2410.18830
"""
INDEX = """[papers.msd]
title = "Multi-Scale Diffusion"
own = "MSD"
["msd:fig4"]
title = "Fig. 4"
suite = "msd-fig4"
columns = { FID = ["fid"] }
scale = { FID = 1.0 }
said_ranks = { FID = 1 }
orders_only = { "CLIP score" = "another network" }
stated = [["FID", "MSD", "MultiDiffusion"]]
differs = ["nothing"]
"""
WEIGHTS = """[[model]]
name = "sd-1.5"
repository = "stable-diffusion-v1-5/stable-diffusion-v1-5"
revision = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
pinned = true
files = ["model_index.json", "unet/*"]
size_gb = 4.26
size_from = "computed"
licence = "CreativeML Open RAIL-M"
role = "backbone"
needed_by = ["sd15"]
notes = "A mirror."
[[model]]
name = "lpips"
repository = "https://example.org/a%20b.pth"
files = ["a b.pth"]
size_gb = 1
size_from = "card"
licence = "MIT"
role = "scorer"
needed_by = ["intra-lpips"]
digests = { "a b.pth" = "01234567" }
"""
