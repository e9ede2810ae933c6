"""Benchmarks, one file each: a part of naturaltone beside its peer, in one run, on real photos.

May import: infra, pipeline, pipeline.dataset, pipeline.photo, pipeline.stream, serving, serving.archive, training,
training.measures, cv2, numpy, torch.
"""
