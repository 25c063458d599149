"""LIBERO and LIBERO-PRO (Liu et al. 2023; Zhou et al. 2025): suites of ten tasks of a Panda arm.

`suites` lists tasks and official starts, `env` is the environment, `experts` has its scripted experts.
"""
