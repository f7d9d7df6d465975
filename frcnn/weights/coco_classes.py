"""COCO's categories: checkpoints trained on COCO contain class numbers but no names."""

from __future__ import annotations

NAMES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,
fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,
potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)
LARGEST_ID = 90
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of categories that were planned but never annotated
IDS = tuple(number for number in range(1, LARGEST_ID + 1) if number not in UNUSED_IDS)


def classes_of(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids of a network with ``count`` classes besides the background.

    80 classes are COCO's; 90 are COCO's category ids including the unused ones (torchvision); others are numbered.
    """
    if count == len(NAMES):
        return NAMES, IDS
    if count == LARGEST_ID:
        name_of = dict(zip(IDS, NAMES, strict=True))
        return tuple(name_of.get(number, f"unused {number}") for number in range(1, LARGEST_ID + 1)), tuple(
            range(1, LARGEST_ID + 1)
        )
    return tuple(f"class {number}" for number in range(1, count + 1)), tuple(range(1, count + 1))
