"""Pipelines of Apache Beam for data work that outgrows one machine.

They call the functions that one machine calls, and give its results. `docs/guides/beam.md` shows the runners.
"""
from typing import Annotated

import tyro

Flag = Annotated[str, tyro.conf.arg(metavar="'RUNNER FLAGS'", help=(
    "Do the work on Apache Beam: a runner and its flags, such as 'DirectRunner --direct_num_workers 4'. Empty: on this "
    'machine.'))]
"""Option of commands."""
