"""Options for XLA, where its defaults leave speed on the table."""
import jax


def options() -> dict[str, int]:
  """What `jax.jit(compiler_options=...)` takes for the heavy functions.

  On CPUs, the widest vectors there are: XLA uses half of AVX-512's by default (bench/RESULTS.md).
  """
  return {'xla_cpu_prefer_vector_width': 512} if jax.default_backend() == 'cpu' else {}
