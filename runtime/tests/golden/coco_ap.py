"""Makes coco_ap.json: random truths and detections with pycocotools' average precision.

    python3 -m venv venv && venv/bin/pip install pycocotools==2.0.* numpy
    venv/bin/python coco_ap.py > coco_ap.json

Boxes are on a grid of 1/4 pixel, so that f32 and f64 hold the same figures. Scores come from
a small set, so that many are equal and the order of ties matters.
"""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

rng = np.random.default_rng(20261120)
CLASSES = 4


def quarter(x):
    return [float(np.round(v * 4) / 4) for v in x]


def box():
    w, h = rng.uniform(8, 120, 2)
    return quarter([rng.uniform(0, 320 - w), rng.uniform(0, 240 - h), w, h])


images, annotations, detections = [], [], []
for i in range(24):
    images.append({"id": i + 1, "file_name": f"{i}.jpg", "width": 320, "height": 240})
    for _ in range(int(rng.integers(0, 9))):
        # The last class has no truth at all.
        c, b = int(rng.integers(0, CLASSES - 1)), box()
        crowd = int(rng.random() < 0.12)
        annotations.append({"id": len(annotations) + 1, "image_id": i + 1, "category_id": c,
                            "bbox": b, "area": b[2] * b[3], "iscrowd": crowd})
        # Near it: right ones, doubles, some of a wrong class.
        for _ in range(int(rng.integers(0, 4))):
            d = quarter(np.array(b) + rng.normal(0, 1, 4) * rng.choice([0, 1, 3, 8]))
            d[2:] = [max(v, 2.0) for v in d[2:]]
            wrong = rng.random() < 0.1
            detections.append({"image_id": i + 1, "bbox": d,
                               "category_id": int(rng.integers(0, CLASSES)) if wrong else c,
                               "score": float(rng.integers(1, 32)) / 32})
    for _ in range(int(rng.integers(0, 6))):
        detections.append({"image_id": i + 1, "category_id": int(rng.integers(0, CLASSES)),
                           "bbox": box(), "score": float(rng.integers(1, 32)) / 32})
# More detections of a class on one picture than count.
for _ in range(130):
    detections.append({"image_id": 1, "category_id": 0, "bbox": box(),
                       "score": float(rng.integers(1, 32)) / 32})

truth = {"images": images, "annotations": annotations,
         "categories": [{"id": c, "name": f"class {c}"} for c in range(CLASSES)]}
with contextlib.redirect_stdout(io.StringIO()):
    gt = COCO()
    gt.dataset = json.loads(json.dumps(truth))
    gt.createIndex()
    dt = gt.loadRes(json.loads(json.dumps(detections)))
    e = COCOeval(gt, dt, "bbox")
    e.evaluate()
    e.accumulate()
    e.summarize()


def mean(p):
    p = p[p > -1]
    return float(p.mean()) if p.size else None


# precision: [threshold, recall, class, area, max detections]; area "all", 100 detections.
p = e.eval["precision"][:, :, :, 0, 2]
print(json.dumps({
    "truth": truth,
    "detections": detections,
    "ap": mean(p), "ap50": mean(p[0]), "ap75": mean(p[5]),
    "classes": [{"ap": mean(p[:, :, c]), "ap50": mean(p[0, :, c]), "ap75": mean(p[5, :, c])}
                for c in range(CLASSES)],
}, separators=(",", ":")))
