"""Finds what this machine, its servers and its cluster lack, and says the remedy.

May import: infra, pipeline, pipeline.dataset, pipeline.photo, serving, serving.service, training, cv2, numpy,
psutil, ray, torch.
"""
