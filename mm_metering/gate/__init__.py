"""The hot path of a process: from a wish to a decision in one shared round trip.

Owns: coalescing, the journal of acknowledged facts and its files, the tenants loaded here, the outage policy, the bound
tenant.
Does not own: where state lives (backends), what a request costs (middleware, decorators), billing.
Invariants: a refused take leaves nothing; what was acknowledged stands in the stream, the ledger or the journal.
"""
