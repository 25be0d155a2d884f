"""What stands between a clever text and a reward: static flags, known cases, a checker's advice, smoothing, and the rates.

    flags.scan        rules on the syntax tree and on tokens -> flags
    cases.Cases       hacks and honest near-misses, found by similarity of shape
    judge.Judge       a Sampler's advice: may make a verdict suspicious, never accepts
    smooth.per_task   1.5 sigma around a running mean
    monitor.Monitor   hack rates by reason, and alarms

None of it is what makes a verdict true; that is the sandbox, the checks and the clock.
"""
