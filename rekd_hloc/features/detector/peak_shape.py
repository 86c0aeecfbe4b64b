"""What is known of a keypoint beside its place: the shapes of its peaks, and what surrounds it.

None of it depends on how the image is rotated, so a ranking by it is as good at every angle.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

from jaxtyping import Float
from torch import Tensor

from rekd_hloc.features.detector.keypoints import peak_curvatures
from rekd_hloc.features.detector.orientation import angle_from_bin, find_second_peak
from rekd_hloc.features.detector.surroundings import SURROUNDINGS, measure_surroundings
from rekd_hloc.types import Keypoints


@dataclass(frozen=True, eq=False)
class ShapedKeypoints(Keypoints):
    """Keypoints with the shapes of their peaks.

    Attributes:
        least_curvature: of the score's peak, see
            :func:`~rekd_hloc.features.detector.keypoints.peak_curvatures`.
        most_curvature: likewise.
        peak: probability of the histogram's highest bin, times the number of bins.
        second_share: probability of its second peak as a share of that of the first.
        second_angle: of the second peak, as ``angle``; equal to it where there is none.
        surroundings: of each, see :mod:`rekd_hloc.features.detector.surroundings`; zeros until
            :meth:`in_image` measures them.
    """

    least_curvature: Float[Tensor, " keypoint"]
    most_curvature: Float[Tensor, " keypoint"]
    peak: Float[Tensor, " keypoint"]
    second_share: Float[Tensor, " keypoint"]
    second_angle: Float[Tensor, " keypoint"]
    surroundings: Float[Tensor, "keypoint sign"]

    @classmethod
    def measure(
        cls,
        keypoints: Keypoints,
        around: Float[Tensor, "keypoint 5 5"],
        logits: Float[Tensor, "keypoint bin"],
    ) -> Self:
        """Measure the peaks of keypoints.

        Args:
            keypoints: in pixels of the image.
            around: responses about the pixel nearest to each, see
                :func:`~rekd_hloc.features.detector.keypoints.read_around`.
            logits: of each one's histogram.
        """
        least, most = peak_curvatures(around)
        position, second_share = find_second_peak(logits)
        values = {item.name: getattr(keypoints, item.name) for item in fields(Keypoints)}
        return cls(
            **values,
            least_curvature=least,
            most_curvature=most,
            peak=logits.softmax(dim=1).amax(dim=1) * logits.shape[1],
            second_share=second_share,
            second_angle=angle_from_bin(position, logits.shape[1]),
            surroundings=logits.new_zeros(len(logits), len(SURROUNDINGS)),
        )

    def in_image(self, image: Float[Tensor, "height width"], *, with_directions: bool) -> Self:
        """Return the keypoints with what surrounds them in the image that they lie in."""
        surroundings = measure_surroundings(
            image, self.xy, self.scale, with_directions=with_directions
        )
        return replace(self, surroundings=surroundings)
