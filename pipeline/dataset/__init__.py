"""A store of photos: its shards, its manifest, and the jobs that add photos and remove them.

May import: pipeline, pipeline.photo, cv2, numpy, pyarrow, ray.
"""
