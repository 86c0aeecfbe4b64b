"""Extract photos on a cluster: ``python -m tests.cluster_driver CLUSTER IMAGES OUT SECONDS``.

A process of its own, since Ray and Dask leave threads and signal handlers in theirs. It prints the
summary as JSON.
"""

import json
import sys
from pathlib import Path

from rekd_hloc.cluster.cluster import open_cluster
from rekd_hloc.sfm.extraction import extract_images
from tests.cluster_workers import SlowExtractor


def main():
    name, images, out, seconds = sys.argv[1:]
    extractor = SlowExtractor(float(seconds))
    with open_cluster(name, num_workers=2, device="cpu") as cluster:
        summary = extract_images(extractor, Path(images), Path(out), map_images=cluster.map_images)
    sys.stdout.write(json.dumps({"names": summary.names, "skipped": summary.skipped}))


if __name__ == "__main__":
    main()
