"""A folder that holds an extractor: its configuration and its weights."""

from dataclasses import replace
from pathlib import Path

from rekd_hloc.config import (
    PRESETS,
    ExtractConfig,
    config_tree,
    get_preset,
    load_config,
    reconstruction_preset,
)
from rekd_hloc.features.descriptor.hardnet import resolve_hardnet
from rekd_hloc.features.ranking import resolve_ranking
from rekd_hloc.features.weights import resolve_weights
from rekd_hloc.files import encode_json
from rekd_hloc.ownership import SAFETENSORS, TEXT, replace_bytes

CONFIG = "config.json"
DETECTOR, DESCRIPTOR, RANKING = (
    f"{part}.safetensors" for part in ("detector", "descriptor", "ranking")
)
NO_RANKING = "none"


def read_preset(name: str | Path) -> ExtractConfig:
    """Return the preset of that name, or the configuration in a folder of :func:`save_folder`.

    Raises:
        ValueError: neither; or a folder whose configuration is damaged.
        FileNotFoundError: a folder without a configuration.
    """
    folder = Path(name)
    if str(name) in PRESETS:
        return get_preset(str(name))
    if not folder.is_dir():
        try:
            return get_preset(str(name))
        except ValueError as error:
            raise ValueError(f"{error}; a folder is one of Extractor.save_pretrained") from None
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; Extractor.save_pretrained writes one")
    config = load_config(ExtractConfig(), folder / CONFIG)
    return replace(
        config,
        weights=_locate(folder, config.weights),
        descriptor=replace(config.descriptor, weights=_locate(folder, config.descriptor.weights)),
        ranking=_locate(folder, config.ranking),
    )


def read_for_reconstruction(name: str | Path) -> ExtractConfig:
    """Return the same for a reconstruction, in which presets have a larger budget.

    A folder keeps its own budget.

    Raises:
        ValueError, FileNotFoundError: as :func:`read_preset`.
    """
    return reconstruction_preset(str(name)) if str(name) in PRESETS else read_preset(name)


def is_preset(name: str) -> bool:
    """Say whether :func:`read_preset` takes a name."""
    return name in PRESETS or (bool(name) and (Path(name) / CONFIG).is_file())


def without_folder(config: ExtractConfig, name: str | Path) -> ExtractConfig:
    """Return a configuration that names weights in a preset's folder by their files alone.

    So files that are made with it do not depend on where the folder lies.
    """

    def strip(weights: str) -> str:
        path = Path(weights)
        is_inside = str(name) not in PRESETS and path.parent == Path(name) and path.is_file()
        return path.name if is_inside else weights

    return replace(
        config,
        weights=strip(config.weights),
        descriptor=replace(config.descriptor, weights=strip(config.descriptor.weights)),
        ranking=strip(config.ranking),
    )


def save_folder(config: ExtractConfig, folder: Path, *, overwrite: bool) -> None:
    """Write a configuration and the weights that it names into a folder.

    Raises:
        FileNotFoundError: there are no such weights.
        FileExistsError: other files of these names are there, and ``overwrite`` is off.
        OSError: a file cannot be written.
    """
    files = {
        DETECTOR: resolve_weights(config.weights),
        DESCRIPTOR: resolve_hardnet(config.descriptor.weights),
    }
    if config.ranking != NO_RANKING:
        files[RANKING] = resolve_ranking(config.ranking)
    named = replace(
        config,
        weights=DETECTOR,
        descriptor=replace(config.descriptor, weights=DESCRIPTOR),
        ranking=RANKING if RANKING in files else NO_RANKING,
    )
    for name, path in files.items():
        replace_bytes(folder / name, path.read_bytes(), SAFETENSORS, overwrite=overwrite)
    text = encode_json(config_tree(named))
    replace_bytes(folder / CONFIG, text.encode(), TEXT, overwrite=overwrite)


def _locate(folder: Path, weights: str) -> str:
    """Return the path of weights that lie in the folder; names of shipped ones stay."""
    return str(folder / weights) if (folder / weights).is_file() else weights
