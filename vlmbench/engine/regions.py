"""What a record tells of the region that a RoI method found, and how good it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vlmbench.metrics.regions import area, around, iou, map_auroc, pointing, recall
from vlmbench.perturb.back import pieces
from vlmbench.schema import PixelBox, RegionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmbench.engine.looking import Looked
    from vlmbench.engine.prepare import Prepared
    from vlmbench.items import Box


def seen_region(asked: Prepared, looked: Looked) -> RegionRecord:
    """`asked` is the request as it was before the region was shown too."""
    boxes, transform = asked.boxes, asked.pixels.transform
    size = asked.pixels.images[0].size
    quality = _quality(looked, boxes)
    canvas = (0.0, 0.0, float(size[0]), float(size[1]))
    visible = None
    if transform is not None:
        seen = pieces(transform, canvas)
        whole = (0.0, 0.0, float(transform.in_size[0]), float(transform.in_size[1]))
        visible = None if seen == [whole] else [_rounded(piece) for piece in seen]
    if looked.region is None:
        return RegionRecord(visible=visible, **quality)
    box = looked.region.box
    back = [box] if transform is None else pieces(transform, box)
    return RegionRecord(
        box=_rounded(box),
        source=[_rounded(piece) for piece in back],
        visible=visible,
        share=round(float(area(box)) / (size[0] * size[1]), 6),
        **quality,
    )


def _quality(looked: Looked, boxes: Sequence[Box]) -> dict[str, float | bool | None]:
    """Of the map also where no region came out of it; a region that is not there covers nothing."""
    if not boxes or not float(area(boxes).sum()):
        return {}
    found: dict[str, float | bool | None] = {"iou": 0.0, "recall": 0.0}
    if looked.region is not None:
        found["iou"] = round(float(iou(looked.region.box, around(boxes))), 6)
        found["recall"] = round(recall(looked.region.box, boxes), 6)
    if looked.map is not None:
        cells = looked.signals.cells.numpy()
        values = looked.map.detach().float().cpu().numpy().ravel()
        found["pointing"] = pointing(values, cells, boxes)
        auroc = map_auroc(values, cells, boxes)
        found["auroc"] = None if math.isnan(auroc) else round(auroc, 6)
    return found


def _rounded(box: Sequence[float]) -> PixelBox:
    left, top, right, bottom = (round(float(x), 3) for x in box)
    return left, top, right, bottom
