"""Benchmarks, one file each: time a part of naturaltone and a comparable program in the same run, on real photos.

May import: infra, pipeline, pipeline.dataset, pipeline.photo, pipeline.stream, serving, serving.archive, serving.service,
training, training.measures, aiohttp, cv2, numpy, torch.
"""
