"""Converters of other annotation formats to COCO ``instances`` tables, one module per format.

Each converter returns a :class:`~frcnn.data.formats.builder.Conversion`: the tables, the folder that their file
names start from, and a report of everything that was skipped or repaired. None of these modules imports TensorFlow.
"""
