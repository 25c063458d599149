"""XLA options that are faster than its defaults."""
import jax


def options() -> dict[str, int]:
  """Return `compiler_options` of `jax.jit` for expensive functions.

  On CPUs, vectors of full width: by default XLA uses half of AVX-512's (bench/RESULTS.md).
  """
  return {'xla_cpu_prefer_vector_width': 512} if jax.default_backend() == 'cpu' else {}
