"""A whole folder of photos into a parallel one, resumable, with a report of every file.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.sheet, training, cv2,
duckdb, numpy, pyarrow, ray, torch.
"""
