"""Load the folder of the command line onto eight simulated devices, in bfloat16.

Prints, for each variable, the type, the shape on a device, and whether its numbers are those of one device.
"""
import json
import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import numpy as np

from rtjax.models import parameters
from rtjax.pretrained import load_huggingface
from rtjax.training import sharding

place = sharding.by_name(sharding.make_mesh((1, 4, 2)))
one = parameters.named(load_huggingface(sys.argv[1], dtype='bfloat16'))
split = parameters.named(load_huggingface(sys.argv[1], dtype='bfloat16', sharding=place))
print(json.dumps({name: [str(value.dtype), value.addressable_shards[0].data.shape,
                         bool(np.array_equal(np.asarray(value), np.asarray(one[name])))]
                  for name, value in split.items()}))
