"""The ledger's schema over time (Alembic).

Owns: the steps from an empty database to today's tables. Does not own: the tables as the code reads them
(``backends/sql/tables.py``); a test shows that both are the same.
Invariants: a released step never changes. Steps expand, backfill, then contract, so that release N runs on the
schemas N and N-1. All steps of an upgrade are one transaction on both databases.
"""
