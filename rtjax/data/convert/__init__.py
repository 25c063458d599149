"""Conversion of robot logs to RLDS.

    python -m rtjax.data.convert LOGS --name my_robot

    logs ──► episode ──► validate ──► write
    npz, HDF5, folders   units, poses to actions   all problems at once   a TFDS dataset with splits

`data/README.md` shows the three layouts and the command for each. The dataset has one fixed layout, named in its
metadata, so that `rtjax.data` reads it without an adapter.
"""
