"""Policy models, their contract (base.py), and their parts."""
from rtjax.models import parameters as parameters
from rtjax.models.base import LossTerms as LossTerms
from rtjax.models.base import PolicyConfig as PolicyConfig
from rtjax.models.base import PolicyModel as PolicyModel
from rtjax.models.registry import abstract as abstract
from rtjax.models.registry import build as build
from rtjax.models.registry import config_from_json as config_from_json
from rtjax.models.registry import config_to_json as config_to_json
from rtjax.models.registry import from_values as from_values
from rtjax.models.registry import register as register
from rtjax.models.rt1 import RT1 as RT1
from rtjax.models.rt1 import RT1_X as RT1_X
from rtjax.models.rt1 import RT1Config as RT1Config
from rtjax.models.rt1_multiview import RT1Multiview as RT1Multiview
from rtjax.models.rt1_multiview import RT1MultiviewConfig as RT1MultiviewConfig
from rtjax.models.rt2.config import RT2Config as RT2Config
from rtjax.models.rt2.model import RT2 as RT2
