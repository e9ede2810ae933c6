"""Enhances a folder of photos into a parallel folder. A run can be resumed, and a report names every file.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.sheet, training, cv2,
duckdb, numpy, pyarrow, ray, torch.
"""
