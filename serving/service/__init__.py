"""The HTTP service on Ray Serve: app.py starts it, guard.py lets requests in, api.py answers them, follower.py holds the model.

May import: pipeline, pipeline.photo, serving, serving.sheet, training, cv2, fastapi, numpy, prometheus_client,
pydantic, ray, starlette, torch.
"""
