"""Train the codebook of retrieval: ``python -m training.train_codebook features='[a.h5, b.h5]'``.

It learns from files of features of one descriptor, which ``rekd-hloc extract`` and ``reconstruct``
write. k-means needs no labels, so that any photos will do.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.extractors.extraction import digest_of_files
from rekd_hloc.retrieval.codebook import save_codebook, train_codebook
from rekd_hloc.retrieval.sampling import sample_descriptors
from training.common.cli import run_cli

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainCodebookConfig:
    """What a codebook is trained on."""

    features: tuple[str, ...] = ()
    """HDF5 files of features, all of one descriptor."""
    output: str = "runs/codebook.safetensors"
    """The codebook."""
    num_cells: int = 128
    """Cells of the coarse level."""
    words_per_cell: int = 64
    """Words of each cell."""
    iterations: int = 10
    """Of each k-means."""
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_cli("training.train_codebook", __doc__, TrainCodebookConfig(), train, argv)


def train(config: TrainCodebookConfig, *, quiet: bool = False) -> Path:
    """Train a codebook and write it.

    Returns:
        Its file.

    Raises:
        ValueError: no features are named, or they are of several descriptors or too few.
        FileNotFoundError: there is no such file.
    """
    if not config.features:
        raise ValueError("no features to learn from; name files: features='[features.h5]'")
    paths = [Path(path) for path in config.features]
    sample = sample_descriptors(paths, seed=config.seed)
    if not quiet:
        logger.info("%d descriptors of %d images", len(sample.descriptors), sample.num_images)
    codebook = train_codebook(
        sample.descriptors,
        num_cells=config.num_cells,
        words_per_cell=config.words_per_cell,
        iterations=config.iterations,
        seed=config.seed,
        descriptor=sample.descriptor,
    )
    options = {key: value for key, value in asdict(config).items() if key != "output"}
    provenance = {
        **options,
        "features": [path.parent.name for path in paths],
        "data": digest_of_files(paths),
        "num_images": sample.num_images,
        "num_descriptors": len(sample.descriptors),
    }
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_codebook(output, codebook, provenance)
    return output


if __name__ == "__main__":
    sys.exit(main())
