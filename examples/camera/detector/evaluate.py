"""COCO average precision of an ONNX detector on a rendered picture set.

    python3 render.py --split heldout --count 500 --out /tmp/heldout
    python3 evaluate.py --model ../assets/detector.onnx --data /tmp/heldout

`--clip clip.avi --truth clip.json` measures on a clip instead.
"""

import argparse
import ast
import json
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from metrics import average_precision, detections, letterbox, table


class Session:
    """An ONNX detector on the CPU."""

    def __init__(self, path, threads=2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        _, _, self.height, self.width = self.input.shape
        names = ast.literal_eval(self.session.get_modelmeta().custom_metadata_map["names"])
        self.labels = [names[i] for i in range(len(names))]
        self.seconds = []

    def __call__(self, image, **options):
        """BGR picture -> rows (x0, y0, x1, y1, score, class)."""
        pixels = letterbox(image, self.width, self.height).transpose(2, 0, 1)[None].astype(np.float32) / 255
        start = time.perf_counter()
        output = self.session.run(None, {self.input.name: pixels})[0][0]
        self.seconds.append(time.perf_counter() - start)
        return detections(output, image.shape[1], image.shape[0], self.width, self.height, **options)


def truth_rows(coco):
    """Ground truth per picture, in the order of the picture list."""
    place = {image["id"]: i for i, image in enumerate(coco["images"])}
    rows = [[] for _ in place]
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        rows[place[a["image_id"]]].append((x, y, x + w, y + h, a["category_id"]))
    return [np.array(r, np.float64).reshape(-1, 5) for r in rows]


def frames(path):
    capture = cv2.VideoCapture(str(path))
    while True:
        ok, image = capture.read()
        if not ok:
            return
        yield image


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, help="folder written by render.py")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--confidence", type=float, default=0.001)
    parser.add_argument("--iou", type=float, default=0.7, help="suppression threshold")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", type=Path, help="also write pictures with detections over 0.4 drawn in")
    args = parser.parse_args()
    if args.data:
        coco = json.loads((args.data / "annotations.json").read_text())
        pictures = (cv2.imread(str(args.data / "images" / image["file_name"])) for image in coco["images"])
    elif args.clip and args.truth:
        coco, pictures = json.loads(args.truth.read_text()), frames(args.clip)
    else:
        parser.error("give --data, or --clip and --truth")
    session = Session(args.model, args.threads)
    found = []
    for i, image in enumerate(pictures):
        found.append(session(image, confidence=args.confidence, iou=args.iou))
        if args.draw:
            draw(args.draw / f"{i:06d}.png", image, found[-1], session.labels)
    truth = truth_rows(coco)
    if len(found) != len(truth):
        raise SystemExit(f"{len(found)} pictures but truth for {len(truth)}")
    print(f"{len(found)} pictures, {sum(map(len, truth))} objects; network {np.median(session.seconds) * 1e3:.1f} ms "
          f"(median, {args.threads} threads)")
    print("\n".join(table(average_precision(found, truth, len(session.labels)), session.labels)))


def draw(path, image, rows, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image.copy()
    for x0, y0, x1, y1, score, c in rows:
        if score > 0.4:
            cv2.rectangle(image, (int(x0), int(y0)), (int(x1), int(y1)), (0, 255, 0), 1)
            cv2.putText(image, f"{labels[int(c)]} {score:.2f}", (int(x0), int(y0) - 3), 0, 0.4, (0, 255, 255), 1)
    cv2.imwrite(str(path), image)


if __name__ == "__main__":
    main()
