"""Photos to shards to the training stream.

The files here serve all rooms: where photos and shards lie, the one lock, errors, the fixed algorithms.
No networks and no MLflow.

May import: boto3, botocore, cv2, numpy, psutil, pyarrow, ray, tqdm.
"""
