"""Events told to tenants' own endpoints, signed, again until they are received.

Owns: which URL may be called; one attempt at calling it; endpoints; deliveries.
Does not own: webhooks from a payment provider (billing), what is worth telling (those who commit it).
Invariants: only an address that passed the guard at this very attempt is dialled; an attempt ends within its time and
its bytes, whatever the receiver does.
"""
