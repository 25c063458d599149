"""RT-2: a vision-language backbone, an action head, a cache and a loss."""
