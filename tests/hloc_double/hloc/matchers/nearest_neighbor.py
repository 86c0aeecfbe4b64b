import torch

from ..utils.base_model import BaseModel


class NearestNeighbor(BaseModel):
    default_conf = {"ratio_threshold": None, "do_mutual_check": True}
    required_inputs = ["descriptors0", "descriptors1"]

    def _init(self, conf):
        pass

    def _forward(self, data):
        a, b = data["descriptors0"], data["descriptors1"]
        if 0 in (a.shape[-1], b.shape[-1]):
            # as hloc does: as long as a descriptor, not as the list of keypoints
            nothing = torch.full(a.shape[:2], -1)
            return {"matches0": nothing, "matching_scores0": torch.zeros_like(nothing)}
        similarity = a[0].T @ b[0]
        partner, score = self._nearest(similarity)
        if self.conf["do_mutual_check"]:
            back, _ = self._nearest(similarity.T)
            mutual = (partner >= 0) & (back[partner.clamp(min=0)] == torch.arange(len(partner)))
            partner = torch.where(mutual, partner, -1)
        return {"matches0": partner[None], "matching_scores0": score[None]}

    def _nearest(self, similarity):
        ratio = self.conf["ratio_threshold"]
        best, index = similarity.topk(2 if ratio and similarity.shape[1] > 1 else 1, dim=1)
        passes = torch.ones(len(best), dtype=torch.bool)
        if best.shape[1] == 2:
            passes = (1 - best[:, 0]) <= ratio**2 * (1 - best[:, 1])
        return torch.where(passes, index[:, 0], -1), torch.where(passes, (best[:, 0] + 1) / 2, 0.0)
