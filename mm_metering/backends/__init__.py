"""Where state lives: the counters (hot numbers and the fact stream) and the ledger (durable facts).

Owns: the two Protocols, ``Counters`` and ``Ledger``, and everything that implements them. Vendors stop here.
Does not own: what to count or when; the gate and the worker decide that.
Invariants: all implementations of a Protocol pass the same contract tests; memory is the specification.
"""
