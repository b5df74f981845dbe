"""What a run will take before it is started: time, storage, memory, GPU and CPU hours of every stage.

`rates` reads the measured and the assumed speeds, `job` divides amounts of work by them, and `plan` says what every
stage amounts to. Ray is not imported.
"""
