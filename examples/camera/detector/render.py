"""Renders a split of the picture set, with ground truth in COCO form.

    python3 render.py --split heldout --count 500 --out DIR

writes DIR/images/000000.jpg ... and DIR/annotations.json.  A picture depends on
its split and index alone.
"""

import argparse
import json
import os
from multiprocessing import Pool
from pathlib import Path

import cv2

from scene import HEIGHT, LABELS, WIDTH, render_picture

SPLITS = {"train": 1, "heldout": 2, "calibration": 3, "demo": 4}


def picture(split, index):
    return render_picture([SPLITS[split], index])


def coco(records):
    """COCO dictionary from (file name, [(category, x, y, w, h, area), ...]) per picture."""
    images, annotations = [], []
    for i, (name, objects) in enumerate(records):
        images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for category, x, y, w, h, area in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": category,
                                "bbox": [x, y, w, h], "area": area, "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(LABELS)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write(job):
    split, index, folder, quality = job
    cv2.setNumThreads(1)
    image, objects = picture(split, index)
    name = f"{index:06d}.jpg"
    cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return name, objects


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", choices=SPLITS, default="heldout")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="index of the first picture")
    parser.add_argument("--indices", type=int, nargs="+", help="these pictures instead of a range")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    indices = args.indices or range(args.first, args.first + args.count)
    jobs = [(args.split, i, folder, args.quality) for i in indices]
    with Pool(args.jobs) as pool:
        records = pool.map(_write, jobs, chunksize=8)
    (args.out / "annotations.json").write_text(json.dumps(coco(records)))
    print(f"{len(records)} pictures, {sum(len(o) for _, o in records)} objects in {args.out}")


if __name__ == "__main__":
    main()
