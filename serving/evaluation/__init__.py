"""Measures how good a model's pictures are: scores over many photos, tables, pages, and what each loss adds.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.sheet, training, training.measures, cv2, numpy,
torch.
"""
