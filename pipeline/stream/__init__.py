"""The training stream: a seeded plan names every sample by its position, and Ray Data reads the samples.

A run is a pure function of (store, configuration, seed). Step k of a run is the batch of the positions kB … (k+1)B−1.
Position kB+j belongs to lane j.

A lane reads a block of photos from one row group, then a block from another. So one read uses all of a row group, and the
B lanes of a batch read from B different row groups. Lanes begin their blocks at different steps, so each step begins about
equally many blocks. Ingest has shuffled the photos, so the photos of a row group are a random sample. In a small store,
blocks are shorter than row groups; otherwise a batch would hold a photo twice.

May import: pipeline, pipeline.dataset, pipeline.photo, cachetools, cv2, numpy, pyarrow, ray.
"""
