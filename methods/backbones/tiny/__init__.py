"""Tiny random pipelines in the real layouts, for trials and tests."""
