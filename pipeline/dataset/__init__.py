"""A store of photos: its shards, its manifest, and the jobs that add photos and take them out.

May import: pipeline, pipeline.photo, cv2, numpy, pyarrow, ray.
"""
