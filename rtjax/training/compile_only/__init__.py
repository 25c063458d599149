"""Training steps compiled for machines that are not there.

A TPU's compiler (package libtpu) runs on any x86-64 Linux machine. The step of a configuration is lowered from shapes
alone, without data or parameters, and compiled for a topology such as `v5e:4x4`; or for `cpu:8`, simulated devices.

    devices   what to compile for, and the published rates of chips
    analyse   configuration and devices to a report
    hlo       text of a compiled program to instructions
    program   instructions to FLOPs, bytes, messages and live buffers
    report    memory by kind, bounds on the time of a step, advice
"""
from rtjax.training.compile_only.analyse import analyse as analyse
from rtjax.training.compile_only.report import Report as Report
from rtjax.training.compile_only.report import describe as describe
