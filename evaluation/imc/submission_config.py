"""The JSON file of an official IMC submission: writing it, and the rules it must keep.

It is a list with one method: ``metadata``, ``config_common``, and one entry for each dataset and
task. A submission of features with their matches names them as custom matches; the organisers then
take each stereo pose by the 8-point algorithm from all matches of a pair, so those have to be
inliers already, and give the multiview matches to COLMAP.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.imc.dataset import DATASETS

CONFIG = "config.json"
TASKS = ("stereo", "multiview")
CATEGORIES = (2048, 8000)
"""The challenge's two classes: most keypoints of any image."""
EIGHT_POINT = "cv2-8pt"
"""The one estimator that is allowed with custom matches."""

LABEL = r"[a-z0-9.-]+"
JSON_LABEL = r"[a-z0-9._-]+"
METADATA: Mapping[str, type] = {
    "publish_anonymously": bool,
    "authors": str,
    "contact_email": str,
    "method_name": str,
    "method_description": str,
}
MORE_METADATA: Mapping[str, type] = {
    "link_to_website": str,
    "link_to_pdf": str,
    "under_review": bool,
    "under_review_override": str,
}
COMMON = ("json_label", "keypoint", "descriptor", "num_keypoints")
CUSTOM = ("use_custom_matches", "custom_matches_name")
OWN_SETTINGS = ("matcher", "outlier_filter")
LAST_STEP = {"stereo": "geom", "multiview": "colmap"}


@dataclass(frozen=True)
class Metadata:
    """Who submits what, as the organisers publish it."""

    method_name: str
    method_description: str = ""
    authors: str = ""
    contact_email: str = ""
    link_to_website: str = ""
    link_to_pdf: str = ""
    publish_anonymously: bool = False
    under_review: bool = False


@dataclass(frozen=True)
class Labels:
    """Names in a submission; any text is brought into the form that the benchmark allows."""

    json_label: str
    keypoint: str
    descriptor: str
    stereo: str = "custom-matches"
    """Of the matches of the stereo task."""
    multiview: str = "custom-matches"

    def __post_init__(self) -> None:
        object.__setattr__(self, "json_label", _clean(self.json_label, "._-"))
        for name in ("keypoint", "descriptor", "stereo", "multiview"):
            object.__setattr__(self, name, _clean(getattr(self, name), ".-"))


def category_of(num_keypoints: int) -> int:
    """Return the class of a submission whose largest image has that many keypoints.

    Raises:
        ValueError: more than the larger class allows.
    """
    for category in CATEGORIES:
        if num_keypoints <= category:
            return category
    raise ValueError(
        f"an image has {num_keypoints} keypoints, the benchmark takes {CATEGORIES[-1]} at most; "
        "extract with a smaller budget"
    )


def make_config(
    labels: Labels, metadata: Metadata, category: int, datasets: Sequence[str]
) -> list[dict[str, Any]]:
    """Make the content of ``config.json`` for features with matches of those datasets."""
    method: dict[str, Any] = {
        "metadata": asdict(metadata),
        "config_common": {
            "json_label": labels.json_label,
            "keypoint": labels.keypoint,
            "descriptor": labels.descriptor,
            "num_keypoints": category,
        },
    }
    tasks: dict[str, dict[str, Any]] = {
        "stereo": {"custom_matches_name": labels.stereo, "geom": {"method": EIGHT_POINT}},
        "multiview": {"custom_matches_name": labels.multiview, "colmap": {}},
    }
    for dataset in datasets:
        for task, entry in tasks.items():
            method[f"config_{dataset}_{task}"] = {"use_custom_matches": True, **entry}
    return [method]


def check_config(content: Any, datasets: Sequence[str]) -> list[str]:
    """Return what is wrong with the content of a ``config.json``, for these datasets."""
    if not isinstance(content, list):
        return ["must be a list with one method"]
    if len(content) != 1 or not isinstance(content[0], dict):
        return [f"must list one method as an object, it has {len(content)} entries"]
    method = content[0]
    keys = {f"config_{dataset}_{task}" for dataset in DATASETS for task in TASKS}
    flaws = [
        f"unknown key {key!r}"
        for key in method
        if key not in ("metadata", "config_common") and key not in keys
    ]
    flaws += _check_metadata(method.get("metadata"))
    flaws += _check_common(method.get("config_common"))
    for dataset in datasets:
        for task in TASKS:
            key = f"config_{dataset}_{task}"
            flaws += [f"{key}: {flaw}" for flaw in _check_task(method.get(key), task)]
    return flaws


def uses_custom_matches(content: Any, dataset: str, task: str) -> bool:
    """Say whether a config that has no flaws promises files of matches for that task."""
    return bool(content[0][f"config_{dataset}_{task}"]["use_custom_matches"])


def _check_metadata(metadata: Any) -> list[str]:
    if not isinstance(metadata, dict) or not metadata:
        return ["metadata is missing; a submission to the challenge needs it"]
    known = {**METADATA, **MORE_METADATA}
    flaws = [f"metadata lacks {key!r}" for key in METADATA if key not in metadata]
    flaws += [f"metadata has an unknown key {key!r}" for key in metadata if key not in known]
    flaws += [
        f"metadata: {key} must be {known[key].__name__}, got {value!r}"
        for key, value in metadata.items()
        if key in known and not isinstance(value, known[key])
    ]
    return flaws


def _check_common(common: Any) -> list[str]:
    if not isinstance(common, dict):
        return ["config_common is missing"]
    flaws = [f"config_common lacks {key!r}" for key in COMMON if key not in common]
    unknown = [key for key in common if key not in (*COMMON, "pairwise_keypoints")]
    flaws += [f"config_common has an unknown key {key!r}" for key in unknown]
    forms = {"json_label": JSON_LABEL, "keypoint": LABEL, "descriptor": LABEL}
    for key, form in forms.items():
        if key in common and not re.fullmatch(form, str(common[key])):
            flaws.append(f"config_common: {key} must be of the form {form}, got {common[key]!r}")
    count = common.get("num_keypoints", -1)
    if not _is_int(count) or (count != -1 and count not in CATEGORIES):
        flaws.append(f"config_common: num_keypoints must be one of {CATEGORIES} or -1, got {count}")
    return flaws


def _check_task(entry: Any, task: str) -> list[str]:
    if not isinstance(entry, dict) or not entry:
        return ["is missing or empty"]
    if not isinstance(entry.get("use_custom_matches"), bool):
        return ["use_custom_matches must be true or false"]
    last = LAST_STEP[task]
    known = (*CUSTOM, *OWN_SETTINGS, last)
    flaws = [f"unknown key {key!r}" for key in entry if key not in known]
    check: Callable[[dict[str, Any], str], list[str]] = (
        _check_custom if entry["use_custom_matches"] else _check_own
    )
    return flaws + check(entry, last)


def _check_custom(entry: dict[str, Any], last: str) -> list[str]:
    flaws = [f"{key} is not allowed with custom matches" for key in OWN_SETTINGS if key in entry]
    name = entry.get("custom_matches_name")
    if not isinstance(name, str) or not re.fullmatch(LABEL, name):
        flaws.append(f"custom_matches_name must be of the form {LABEL}, got {name!r}")
    wanted: dict[str, Any] = {"method": EIGHT_POINT} if last == "geom" else {}
    if entry.get(last, {}) != wanted or (wanted and last not in entry):
        flaws.append(f"with custom matches {last} must be {wanted}, got {entry.get(last)!r}")
    return flaws


def _check_own(entry: dict[str, Any], last: str) -> list[str]:
    needed = (*OWN_SETTINGS, "geom") if last == "geom" else OWN_SETTINGS
    return [f"lacks {key!r}, which it needs without custom matches" for key in needed
            if key not in entry]  # fmt: skip


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _clean(text: str, extra: str) -> str:
    """Lower case, and a hyphen for each run of signs that are not allowed."""
    cleaned = re.sub(rf"[^a-z0-9{re.escape(extra)}]+", "-", text.lower()).strip("-")
    if not cleaned:
        raise ValueError(f"a submission's label needs letters a-z or digits, got {text!r}")
    return cleaned
