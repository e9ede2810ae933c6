"""Photos to shards to the training stream. May import Pillow, OpenCV, pyarrow, boto3 and Ray Data; no networks, no MLflow."""
