"""What a run will take before it is started: time, storage, memory, GPU and CPU hours of every stage.

`rates` reads the measured and the derived speeds, `operations` counts the work as the code does it, `every_image` and
`learning` divide one by the other, stage by stage, and `plan` puts it together. Neither torch nor Ray is imported.
"""
