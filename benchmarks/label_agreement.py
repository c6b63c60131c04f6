"""How well the landmarks of photos.csv can be predicted at all.

    python benchmarks/label_agreement.py DATA/photos/test YUNET.onnx

The labels were made by a YuNet over several scales. Run over the same pictures at several scales,
it tells how far its own landmarks lie apart, and how far their mean, which no network that does not
see the labeller's pixel grid can be expected to beat, lies from the labels. Faces of 24 pixels and
more whose eyes are at least a quarter of the face's size apart; errors over the eye distance.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from fhrt.detect import YuNet
from fhrt.faces import iou
from fhrt.pictures import read_photo
from fhrt.quality.detection import read_table

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)


def main(folder: Path, model: Path) -> None:
    detect = YuNet(model, 0.5)
    apart, from_labels = defaultdict(list), defaultdict(list)
    for name, rows in read_table(folder / "photos.csv").items():
        kind = name.split("/")[0]
        rows = [row for row in rows if row["w"] and row["ignore"] == "0"]
        if not rows:
            continue
        picture = read_photo(folder / name).picture
        looks = []
        for scale in SCALES:
            scaled = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            looks.append([((f.box + 0.5) / scale, (f.landmarks + 0.5) / scale - 0.5)
                          for f in detect(scaled)])  # fmt: skip
        for row in rows:
            x, y, w, h = (float(row[key]) for key in "xywh")
            truth = np.array([[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(5)])
            eyes = float(np.linalg.norm(truth[1] - truth[0]))
            if np.sqrt(w * h) < 24 or eyes < 0.25 * np.sqrt(w * h):
                continue
            found = []
            for faces in looks:
                if faces:
                    overlap = iou(np.array([[x, y, x + w, y + h]]), np.stack([b for b, _ in faces]))
                    if overlap.max() >= 0.5:
                        found.append(faces[int(overlap.argmax())][1])
            pairs = [np.linalg.norm(a - b, axis=1).mean() for a, b in combinations(found, 2)]
            if pairs:
                apart[kind].append(np.mean(pairs) / eyes)
                mean = np.mean(found, axis=0)
                from_labels[kind].append(np.linalg.norm(mean - truth, axis=1).mean() / eyes)
    for kind in sorted(apart):
        print(
            f"{kind}: n {len(apart[kind])}, two scales {np.mean(apart[kind]):.3f} apart, "
            f"the mean of all {np.mean(from_labels[kind]):.3f} from the labels"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
