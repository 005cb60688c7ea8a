"""ScrollBench: a benchmark for panoramic, long-scroll and ultra-high-resolution text-to-image generation."""

__version__ = "0.1.0"
