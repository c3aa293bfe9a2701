"""Task-aligned assignment and the training loss.

All shapes are static (targets are padded), so nothing waits for the device.
"""

import torch
from torch.nn import functional as F

from model import FIRST_BIN, REG_MAX, bins, cell_centres

TOP_K, ALPHA, BETA = 10, 0.5, 6.0
BOX_GAIN, CLASS_GAIN, DFL_GAIN = 7.5, 0.5, 1.5
SMALLEST = 10.0  # boxes count as at least this wide and high when cells are picked


def ciou(a, b, eps=1e-7):
    """Complete IoU of boxes [..., 4] given as corners."""
    wa, ha = (a[..., 2:] - a[..., :2]).clamp(min=eps).unbind(-1)
    wb, hb = (b[..., 2:] - b[..., :2]).clamp(min=eps).unbind(-1)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    iou = inter / (wa * ha + wb * hb - inter + eps)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    centre = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4
    v = (4 / torch.pi ** 2) * (torch.atan(wb / hb) - torch.atan(wa / ha)) ** 2
    with torch.no_grad():
        alpha = v / (v - iou + 1 + eps)
    return iou - centre / ((hull ** 2).sum(-1) + eps) - alpha * v


class Loss:
    def __init__(self, classes, device):
        points, strides = cell_centres()
        self.points, self.strides = points.to(device), strides.to(device)
        self.bins, self.classes = bins().to(device), classes

    def decode(self, raw):
        """[b, 4 * REG_MAX, n] -> distances' logits [b, n, 4, REG_MAX], boxes in pixels [b, n, 4]."""
        b, _, n = raw.shape
        logits = raw.view(b, 4, REG_MAX, n).permute(0, 3, 1, 2)
        d = logits.softmax(-1) @ self.bins
        boxes = torch.cat([self.points - d[..., :2], self.points + d[..., 2:]], -1) * self.strides
        return logits, boxes

    @torch.no_grad()
    def assign(self, scores, boxes, classes, truth, valid):
        """Picks the cells that answer for each object.

        scores [b, n, c], boxes [b, n, 4], classes [b, m], truth [b, m, 4], valid [b, m];
        returns target scores [b, n, c], target boxes [b, n, 4] and weights [b, n].
        """
        b, n, c = scores.shape
        m = truth.shape[1]
        centre, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
        offset = (self.points * self.strides)[None, None] - centre[:, :, None]
        inside = (offset.abs() < half.clamp(min=SMALLEST / 2)[:, :, None]).all(-1) & valid[..., None]
        overlap = ciou(truth[:, :, None], boxes[:, None]).clamp(min=0) * inside
        score = scores.transpose(1, 2).gather(1, classes[..., None].expand(b, m, n))
        metric = score.pow(ALPHA) * overlap.pow(BETA) * inside
        # A tiny preference for near cells keeps the choice sensible before boxes fit.
        metric = metric + inside * 1e-9 / (1 + offset.pow(2).sum(-1))
        kth = metric.topk(TOP_K, -1).values[..., -1:]
        chosen = inside & (metric >= kth) & (metric > 0)
        # A cell wanted by several objects goes to the one it overlaps most.
        best = torch.where(chosen, overlap + 1e-6, -1.0).argmax(1)
        chosen &= F.one_hot(best, m).transpose(1, 2).bool()
        metric = metric * chosen
        peak = metric.amax(-1, keepdim=True)
        top = (overlap * chosen).amax(-1, keepdim=True)
        weight = (metric / (peak + 1e-12) * top).amax(1)
        weight = weight * chosen.any(1)
        target_boxes = truth.gather(1, best[..., None].expand(b, n, 4))
        target_class = classes.gather(1, best)
        return F.one_hot(target_class, c) * weight[..., None], target_boxes, weight

    def __call__(self, raw_boxes, raw_scores, classes, truth, valid):
        raw_boxes, logits = raw_boxes.float(), raw_scores.float().transpose(1, 2)
        distances, boxes = self.decode(raw_boxes)
        target_scores, target_boxes, weight = self.assign(
            logits.detach().sigmoid(), boxes.detach(), classes, truth, valid)
        total = weight.sum().clamp(min=1)
        class_loss = F.binary_cross_entropy_with_logits(logits, target_scores, reduction="sum") / total
        box_loss = ((1 - ciou(boxes, target_boxes)) * weight).sum() / total
        sides = torch.cat([self.points - target_boxes[..., :2] / self.strides,
                           target_boxes[..., 2:] / self.strides - self.points], -1)
        bin_ = (sides - FIRST_BIN).clamp(0, REG_MAX - 1.01)
        left = bin_.long()
        log_p = distances.log_softmax(-1)
        high = bin_ - left
        dfl = -(log_p.gather(-1, left[..., None])[..., 0] * (1 - high)
                + log_p.gather(-1, left[..., None] + 1)[..., 0] * high)
        dfl_loss = (dfl.mean(-1) * weight).sum() / total
        parts = torch.stack([box_loss, class_loss, dfl_loss]).detach()
        return BOX_GAIN * box_loss + CLASS_GAIN * class_loss + DFL_GAIN * dfl_loss, parts
