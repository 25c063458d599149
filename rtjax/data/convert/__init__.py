"""One's own robot logs to RLDS: python -m rtjax.data.convert LOGS --name my_robot

    logs ──► episode ──► validate ──► write
    npz, HDF5, folders   units, poses to actions   what is wrong, all of it   a TFDS dataset with splits

`data/README.md` shows the three layouts and the command for each. What is written has one fixed layout, which its
metadata names, so that `rtjax.data` reads it without an adapter of its own.
"""
