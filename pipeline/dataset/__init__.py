"""A store of photos: shards, the manifest that names them, and the jobs that add photos and take them out. May import Ray."""
