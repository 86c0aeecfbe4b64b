"""Extraction and matching on many workers: processes of this machine, Ray, or Dask.

All go through one seam, ``map_images`` of :func:`rekd_hloc.sfm.extraction.extract_images` and
``map_pairs`` of :func:`rekd_hloc.matching.match_images.match_images`. The calling process reads all
files, sends what a worker needs, and alone writes; workers need no folder of the user's.
"""
