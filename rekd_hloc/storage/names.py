"""Names of images in HDF5 files: which are kept as they are, and what hloc makes of pairs of them.

hloc's names of groups of matches do not tell ``a/b.jpg`` from ``a-b.jpg``.
"""

import re
from collections.abc import Iterable, Mapping

from rekd_hloc.types import Pair

OLD_GROUP = re.compile(r"(.+\.(?:jpe?g|png|ppm|pgm|bmp|tiff?|webp|jp2|gif))_(.+)", re.IGNORECASE)


def check_name(name: str) -> None:
    """Refuse an image name that HDF5 would not keep as it is.

    Raises:
        ValueError: empty, absolute, with ``.``, ``..`` or nothing between slashes, or no Unicode.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise ValueError(
            f"image name {name!r} must be a path relative to the image folder, like folder/a.jpg"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"image name {name!r} is not UTF-8; rename the file") from error


def pair_group(a: str, b: str, separator: str = "/") -> str:
    """Return where hloc keeps a pair's matches; the separator was ``_`` in its older files."""
    return separator.join((a.replace("/", "-"), b.replace("/", "-")))


def names_by_key(names: Iterable[str]) -> dict[str, str]:
    """Return the image name behind each part of a group's path.

    Raises:
        ValueError: two names have the same one; the message names both.
    """
    names_of: dict[str, str] = {}
    for name in names:
        other = names_of.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise ValueError(
                f"hloc's form of match files cannot tell {other!r} from {name!r}, since '/' "
                "becomes '-' there; rename one"
            )
    return names_of


def split_group(group: str, true_name: Mapping[str, str]) -> Pair:
    """Return the two names in a group's path, the true ones where they are known.

    Raises:
        ValueError: a path of one image or of three, or one of hloc's older form that can be split
            in no way, or in several.
    """
    a, slash, b = group.partition("/")
    if slash and (a == b or "/" in b):
        raise ValueError(f"group {group!r} is none of two images; remove it, or match again")
    if slash:
        return true_name.get(a, a), true_name.get(b, b)
    cuts = [(group[:i], group[i + 1 :]) for i, letter in enumerate(group) if letter == "_"]
    known = [(true_name[a], true_name[b]) for a, b in cuts if a in true_name and b in true_name]
    if len(known) == 1:
        return known[0]
    if not known and (match := OLD_GROUP.fullmatch(group)):
        return match[1], match[2]
    raise ValueError(f"cannot tell the two image names in {group!r}; match these images again")
