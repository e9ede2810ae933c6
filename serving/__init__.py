"""A model to enhanced photos: the enhancer, what a model URI names, and single photos.

May import: pipeline, pipeline.photo, training, cv2, mlflow, numba, numpy, psutil, torch.
"""
