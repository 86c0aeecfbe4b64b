"""Extractors that hloc finds as ``hloc.extractors.NAME``."""
