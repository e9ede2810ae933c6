"""Photos to shards to the training stream.

The modules here serve all rooms: storage, the lock, errors and the fixed tone algorithms.
They import no neural networks and no MLflow.

May import: boto3, botocore, cv2, numpy, psutil, pyarrow, ray, tqdm.
"""
