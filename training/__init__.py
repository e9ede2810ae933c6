"""Shards to a model: the patent's method.

Networks, losses, step and loop know neither Ray nor MLflow; `train.py` is the edge to Ray, `tracking.py` and `recorder.py`
are the edge to MLflow.

May import: pipeline, pipeline.dataset, pipeline.photo, pipeline.stream, training.measures, cv2,
mlflow, numpy, ray, safetensors, torch.
"""
