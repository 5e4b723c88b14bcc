"""How does a training, or a sweep of them, survive: interruptions, wrong options, two at once?

Read `run.py` first: a run's directory, its config, its lock and its record. `config.py` and
`check.py` say what a configuration is and which can be run, `sweep.py` plans a sweep,
`processes.py` runs its jobs on this machine, `signals.py` ends them in time and starts them again,
and `progress.py` reads from their files what they are doing. Nothing here needs PyTorch.
"""
