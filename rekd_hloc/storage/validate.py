"""The pre-flight check: are these files of hloc's form fit for a long run?

For the files of any extractor and matcher of hloc. What cannot be read is a finding, never an
exception.
"""

from pathlib import Path

from rekd_hloc.storage.validate_features import check_features
from rekd_hloc.storage.validate_matches import check_matches, check_pairs
from rekd_hloc.storage.validation_issues import ValidationIssue, ValidationIssues, format_issues

__all__ = ["ValidationIssue", "check_files", "format_issues"]


def check_files(
    features: Path, matches: Path | None = None, pairs: Path | None = None, *, deep: bool = False
) -> list[ValidationIssue]:
    """Return what is wrong with a features file, and with matches and pairs that belong to it.

    Looked at are the schema, shapes, values that are not finite, descriptors without unit length,
    points outside the image, precision lost to float16, what matchers need and the file lacks,
    indices that overflowed or point nowhere, and names that do not occur elsewhere. A deep check
    reads every number in the files, and names each damaged image or pair.

    Example:
        >>> print(format_issues(check_files(Path("features.h5"))))  # doctest: +SKIP
        warning  features.h5: a.jpg  `keypoints` are float16, wrong by up to 0.5 px at 1500 px; ...
        info     features.h5         10 images with 1024 to 2048 keypoints of 128 channels
        1 warning, 1 info
    """
    issues = ValidationIssues()
    num_keypoints = check_features(features, issues, deep=deep)
    matched = None
    if matches is not None:
        matched = check_matches(matches, num_keypoints, issues, deep=deep)
    if pairs is not None:
        check_pairs(pairs, num_keypoints, matched, issues)
    return issues.fold()
