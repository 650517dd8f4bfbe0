from psann_jax import bases
from psann_jax.config import Config
def get_config():
    return Config(base=bases.get("waveresnet")(d_model=128,n_layers=4,n_heads=4))
