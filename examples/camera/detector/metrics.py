"""Pre-processing, decoding, non-maximum suppression and COCO average precision (NumPy)."""

import cv2
import numpy as np

PAD = 114
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def letterbox_geometry(width, height, net_width, net_height):
    """(scale, left, top, resized width, resized height) that centres a picture in the input."""
    scale = min(net_width / width, net_height / height)
    w, h = round(width * scale), round(height * scale)
    return scale, (net_width - w) // 2, (net_height - h) // 2, w, h


def letterbox(image, net_width, net_height):
    """BGR uint8 picture -> RGB uint8 input picture."""
    _, left, top, w, h = letterbox_geometry(image.shape[1], image.shape[0], net_width, net_height)
    out = np.full((net_height, net_width, 3), PAD, np.uint8)
    out[top:top + h, left:left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    return out


def suppress(boxes, scores, classes, iou, limit=100):
    """Class-wise non-maximum suppression on corner boxes; indices, best first."""
    order = np.argsort(-scores, kind="stable")
    shifted = boxes + classes[:, None] * 1e5
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = []
    while len(order) and len(keep) < limit:
        i, rest = order[0], order[1:]
        keep.append(i)
        low = np.maximum(shifted[i, :2], shifted[rest, :2])
        high = np.minimum(shifted[i, 2:], shifted[rest, 2:])
        inter = np.clip(high - low, 0, None).prod(1)
        order = rest[inter <= iou * (area[i] + area[rest] - inter)]
    return np.array(keep, np.int64)


def detections(output, width, height, net_width, net_height, confidence=0.001, iou=0.7, limit=100):
    """[4 + classes, n] -> rows (x0, y0, x1, y1, score, class) in picture pixels."""
    best = output[4:].argmax(0)
    score = output[4:].max(0)
    keep = score > confidence
    cx, cy, w, h = output[:4, keep]
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    picked = suppress(boxes, score[keep], best[keep].astype(np.float64), iou, limit)
    scale, left, top, _, _ = letterbox_geometry(width, height, net_width, net_height)
    boxes = (boxes[picked] - (left, top, left, top)) / scale
    boxes = np.clip(boxes, 0, (width, height, width, height))
    return np.concatenate([boxes, score[keep][picked, None], best[keep][picked, None]], 1)


def _iou(a, b):
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(2)
    area = lambda x: (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
    return inter / np.maximum(area(a)[:, None] + area(b)[None] - inter, 1e-9)


def average_precision(found, truth, classes):
    """COCO AP per class and IoU threshold, [classes, 10]; NaN where a class never occurs.

    found: per picture rows (x0, y0, x1, y1, score, class); truth: rows (x0, y0, x1, y1, class).
    """
    ap = np.full((classes, len(THRESHOLDS)), np.nan)
    for c in range(classes):
        scores, hits, positives = [], [], 0
        for d, t in zip(found, truth):
            d, t = d[d[:, 5] == c], t[t[:, 4] == c]
            d = d[np.argsort(-d[:, 4], kind="stable")][:100]
            positives += len(t)
            hit = np.zeros((len(THRESHOLDS), len(d)), bool)
            if len(d) and len(t):
                overlap = _iou(d[:, :4], t[:, :4])
                for k, threshold in enumerate(THRESHOLDS):
                    free = np.ones(len(t), bool)
                    for i in range(len(d)):
                        j = np.where(free, overlap[i], -1).argmax()
                        if free[j] and overlap[i, j] >= threshold:
                            hit[k, i], free[j] = True, False
            scores.append(d[:, 4])
            hits.append(hit)
        if positives == 0:
            continue
        order = np.argsort(-np.concatenate(scores), kind="stable")
        hits = np.concatenate(hits, 1)[:, order]
        for k in range(len(THRESHOLDS)):
            true = np.cumsum(hits[k])
            recall = true / positives
            precision = true / np.arange(1, len(true) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
            ap[c, k] = np.where(at < len(precision), np.append(precision, 0)[np.minimum(at, len(precision))], 0).mean()
    return ap


def table(ap, labels):
    """AP table as Markdown lines."""
    lines = ["| class | AP50 | AP75 | AP50:95 |", "| --- | --- | --- | --- |"]
    for label, row in zip(labels, ap):
        if not np.isnan(row).all():
            lines.append(f"| {label} | {row[0]:.3f} | {row[5]:.3f} | {row.mean():.3f} |")
    mean = np.nanmean(ap, 0)
    lines.append(f"| **all** | **{mean[0]:.3f}** | **{mean[5]:.3f}** | **{mean.mean():.3f}** |")
    return lines
