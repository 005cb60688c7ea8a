"""ScrollBench: a benchmark for panoramic, long-scroll and ultra-high-resolution text-to-image generation.

The front door: ``bench.run(suite, store)`` and every other verb, and what authors of methods and metrics need
(``from bench import method, Canvas, Prompt, Noise``). Everything is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from bench.lazy import names
from bench.version import __version__ as __version__

if TYPE_CHECKING:
    from bench import analysis as analysis
    from bench import catalogue as catalogue
    from bench import extractors as extractors
    from bench import metrics as metrics
    from bench import pipeline as pipeline
    from bench import prompts as prompts
    from bench import report as report
    from bench import stats as stats
    from bench import store as store
    from bench import suites as suites
    from bench import world as world
    from bench.analysis.board import boards as boards
    from bench.analysis.calibrate import calibrate as calibrate
    from bench.analysis.calibrate_gsd import calibrate_gsd as calibrate_gsd
    from bench.analysis.compare import compare as compare
    from bench.analysis.gate import gate as gate
    from bench.analysis.reproduce import reproduce as reproduce
    from bench.analysis.votes import read_votes as read_votes
    from bench.analysis.votes import weigh as weigh
    from bench.catalogue.conformance import check as check
    from bench.catalogue.doctor import examine as examine
    from bench.catalogue.listing import describe as describe
    from bench.catalogue.listing import listing as listing
    from bench.catalogue.new import write_new as write_new
    from bench.catalogue.start import start as start
    from bench.errors import ScrollBenchError as ScrollBenchError
    from bench.noise import Noise as Noise
    from bench.pipeline.adopt import adopt as adopt
    from bench.pipeline.adopt import propose as propose
    from bench.pipeline.forecast import forecast as forecast
    from bench.pipeline.generate import generate as generate
    from bench.pipeline.measure import evaluate as evaluate
    from bench.pipeline.plan import make_plan as make_plan
    from bench.pipeline.run import run as run
    from bench.pipeline.score import score as score
    from bench.pipeline.train import preference_accuracy as preference_accuracy
    from bench.pipeline.train import train as train
    from bench.prompts.sets import load_prompts as load_prompts
    from bench.registry import extractor as extractor
    from bench.registry import method as method
    from bench.registry import metric as metric
    from bench.report.contact import contact_sheet as contact_sheet
    from bench.report.export import export as export
    from bench.report.site.write import write_site as write_site
    from bench.store.index import build as build
    from bench.store.index import query as query
    from bench.store.store import Store as Store
    from bench.suites.load import load_suite as load_suite
    from bench.types import Canvas as Canvas
    from bench.types import Parts as Parts
    from bench.types import Prompt as Prompt
    from bench.types import Value as Value

PUBLIC = {  # module: its public names
    "bench.types": "Canvas Parts Prompt Value",
    "bench.noise": "Noise",
    "bench.registry": "method metric extractor",
    "bench.errors": "ScrollBenchError",
    "bench.store.store": "Store",
    "bench.store.index": "build query",
    "bench.prompts.sets": "load_prompts",
    "bench.suites.load": "load_suite",
    "bench.pipeline.plan": "make_plan",
    "bench.pipeline.generate": "generate",
    "bench.pipeline.score": "score",
    "bench.pipeline.train": "train preference_accuracy",
    "bench.pipeline.measure": "evaluate",
    "bench.pipeline.run": "run",
    "bench.pipeline.adopt": "adopt propose",
    "bench.pipeline.forecast": "forecast",
    "bench.analysis.board": "boards",
    "bench.analysis.compare": "compare",
    "bench.analysis.gate": "gate",
    "bench.analysis.calibrate": "calibrate",
    "bench.analysis.calibrate_gsd": "calibrate_gsd",
    "bench.analysis.reproduce": "reproduce",
    "bench.analysis.votes": "read_votes weigh",
    "bench.report.export": "export",
    "bench.report.contact": "contact_sheet",
    "bench.report.site.write": "write_site",
    "bench.catalogue.listing": "listing describe",
    "bench.catalogue.doctor": "examine",
    "bench.catalogue.start": "start",
    "bench.catalogue.conformance": "check",
    "bench.catalogue.new": "write_new",
}
__getattr__ = names(__name__, {name: module for module, text in PUBLIC.items() for name in text.split()})
