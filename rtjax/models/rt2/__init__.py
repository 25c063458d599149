"""RT-2: a vision-language backbone, a way to act, a cache and a loss."""
