"""Usage by hand and in bulk: events of the past into the ledger, corrections, and facts out of it.

Owns: what a line of a usage file says, the batches of a backfill, what a correction takes off and from where.
Does not own: the fold, claims of ids (backends); what an event's fact is (gate.stated); files and screens (cli).
Invariants: an event is recorded once, however often its file is read; what was recorded here is shown by counters that
are loaded; no cell falls below 0 by a correction.
"""
