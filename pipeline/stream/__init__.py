"""The training stream: a seeded plan that names every sample by its position, and the Ray Data job that reads it.

A run is a pure function of (store, configuration, seed). Global step k is the positions kB … (k+1)B−1; position kB+j is
lane j. A lane goes straight on through a block of photos that lie together in one row group, then takes another block:
a task reads a row group once and uses all of it, while the B lanes of a batch come from B different row groups. Blocks
of different lanes begin at different steps, so that every step needs about as many new blocks. Inside a row group the
photos are a random sample of their wave already (ingest shuffles it). A small store has blocks shorter than its
row groups: it can afford to read them more often, and could not fill a batch with different photos otherwise.
"""
