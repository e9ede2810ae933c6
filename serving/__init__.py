"""Enhances photos with a model: the enhancer, the lookup of models by URI, and single photos.

May import: pipeline, pipeline.photo, training, cv2, mlflow, numba, numpy, psutil, torch.
"""
