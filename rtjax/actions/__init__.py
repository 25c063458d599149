"""Actions: fields with bounds and units, their tokens, and named specs.

A raw action is a float32 vector of A numbers, the fields of an `ActionSpec` one after the other. A token is an integer
in [0, V). Each continuous number has a token; a field of classes (one-hot numbers) has a single one:

    field                     kind         numbers  tokens
    terminate_episode         classes            3       1
    world_vector              continuous         3       3
    ...                                          A       K
"""
from rtjax.actions.field import ActionField, Array, classes
from rtjax.actions.named import ARM_7D, LANGUAGE_TABLE, LIBERO, METAWORLD, POSE_7D, RT1, RT1_X, SPECS, get
from rtjax.actions.spec import ActionSpec

__all__ = ['ARM_7D', 'LANGUAGE_TABLE', 'LIBERO', 'METAWORLD', 'POSE_7D', 'RT1', 'RT1_X', 'SPECS', 'ActionField',
           'ActionSpec', 'Array', 'classes', 'get']
