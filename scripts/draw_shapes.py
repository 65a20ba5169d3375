#!/usr/bin/env python
"""Write drawn shapes as a data set in COCO's format: OUT/images/*.png and OUT/annotations.json, for ``coco:``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoq.data.objects import boxes_of_masks
from autoq.data.shapes import CLASS_NAMES, SIDE, SPLITS, draw_shapes


def run_lengths(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Return the lengths of runs of zeros and ones in turn, zeros first, column by column, as COCO counts them."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    starts = np.flatnonzero(np.diff(flat.astype(np.int8))) if flat.any() else np.array([], dtype=np.int64)
    return np.diff([0, *starts.tolist(), mask.size]).tolist()


def write_data_set(out: Path, split: str, images: int) -> Path:
    """Draw the first images of a split, and return the path of the annotation file."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    listed, annotations = [], []
    for index in range(images):
        drawn = draw_shapes(split, index)
        name = f"images/{index:06d}.png"
        Image.fromarray(drawn.pixels).save(out / name)
        listed.append({"id": index, "file_name": name, "height": SIDE, "width": SIDE})
        for label, mask, box in zip(drawn.labels, drawn.masks, boxes_of_masks(drawn.masks).tolist(), strict=True):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [SIDE, SIDE], "counts": run_lengths(mask)},
                }
            )
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASS_NAMES)]
    path = out / "annotations.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}) + "\n")
    return path


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--split", choices=list(SPLITS), default="val")
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    print(f"coco:{write_data_set(arguments.out, arguments.split, arguments.images)}")


if __name__ == "__main__":
    main()
