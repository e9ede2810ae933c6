"""Train a model on shards with the method of the patent (US 12277676 B2).

Networks, losses, step and loop know neither Ray nor MLflow. Only `train.py` knows Ray. Only `tracking.py` and `recorder.py`
know MLflow.

May import: pipeline, pipeline.dataset, pipeline.photo, pipeline.stream, training.measures, cv2,
mlflow, numpy, ray, safetensors, torch.
"""
