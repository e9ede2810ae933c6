"""Where naturaltone runs: the servers on one machine, the commands, the demo, and the making of the default model.

May import: pipeline, pipeline.dataset, pipeline.photo, serving, serving.archive, serving.evaluation, serving.service,
serving.sheet, training, training.measures, cv2, grpc, numpy, prometheus_client, psutil, pydantic, ray, torch.
"""
