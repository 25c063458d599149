"""Marker of settings that a command leaves out of its short help."""
from typing import Annotated, TypeVar

_T = TypeVar('_T')
HIDDEN = 'left out of --help, shown by --help-verbose'

Hidden = Annotated[_T, HIDDEN]
"""A rarely changed setting, as in `width: Hidden[int] = 512`."""
