"""Matchers that hloc finds as ``hloc.matchers.NAME``."""
