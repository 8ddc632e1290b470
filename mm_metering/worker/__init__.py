"""What runs beside the requests: the stream into the ledger, and later every periodic job.

Owns: draining, periodic jobs, the process that runs them (inline or ``mm-metering worker``).
Does not own: the fold itself (the ledger's transaction), rating, billing.
Invariants: any number of workers may run; the compare-and-set of a shard's position lets one win, and the others lose
nothing.
"""
