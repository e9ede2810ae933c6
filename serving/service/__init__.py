"""The HTTP service on Ray Serve.

May import: pipeline, pipeline.photo, serving, fastapi, pydantic, ray, starlette.
"""
