"""Rankings with weights of one's own."""

import torch

from rekd_hloc.features.ranking import load_ranking
from tests.test_ranking import some_candidates
from training import linear_ranking


def test_a_weighted_sum_orders_the_keypoints(tmp_path):
    path = tmp_path / "r.safetensors"
    assert linear_ranking.main(["weights=[log_score=1,level=-2]", f"output={path}"]) == 0
    keypoints = some_candidates().keypoints
    expected = (keypoints.score / keypoints.score.median()).log() - 2 * keypoints.scale.log2()
    ranking = load_ranking(str(path))
    assert not ranking.needs_description
    torch.testing.assert_close(ranking.logits(keypoints), expected)


def test_the_shipped_ranking_has_the_default_weights():
    keypoints = some_candidates().keypoints
    own = linear_ranking.linear_ranking(
        linear_ranking.read_weights(linear_ranking.LinearRankingConfig().weights)
    )
    assert torch.equal(load_ranking("ranking-linear").logits(keypoints), own.logits(keypoints))


def test_unknown_signs_and_weights_are_named(tmp_path, caplog):
    for weight, message in (
        ("brightness=1", "no sign 'brightness'; signs are log_score, rank"),
        ("log_score=much", "weight 'log_score=much' must be SIGN=NUMBER"),
    ):
        assert linear_ranking.main([f"weights=[{weight}]", f"output={tmp_path / 'r'}"]) == 2
        assert message in caplog.text
