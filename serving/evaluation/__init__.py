"""How good a model's pictures are: measures over many photos, tables, pages, and what each loss adds.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.sheet, training, training.measures, numpy.
"""
