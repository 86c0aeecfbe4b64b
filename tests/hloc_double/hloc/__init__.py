"""A stand-in for hloc: as much of its behaviour as a plugin meets, for machines without it.

The tests that use it run against the real hloc too where that is importable.
"""

import logging

__version__ = "0.double"
logger = logging.getLogger("hloc")
