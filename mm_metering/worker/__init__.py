"""What runs beside the requests: the stream into the ledger, and every periodic job.

Owns: draining, leases of shards, periodic jobs, dead letters, what a worker says about itself, and what runs all these
(inline or ``mm-metering worker``).
Does not own: the fold itself (the ledger's transaction), rating, billing.
Invariants: any number of workers may run; the compare-and-set of a shard's position lets one win, and the others lose
nothing. A job's run is done once, under the highest fence. No two clocks are compared.
"""
