"""Where naturaltone runs: one machine's servers, the demo, and how the default model is made.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.archive, serving.evaluation, serving.service,
serving.sheet, training, cv2, numpy, psutil, ray, torch.
"""
