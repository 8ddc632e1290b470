"""What developers write on their functions.

Owns: the decorators, which mark or wrap and never change a signature.
Does not own: what a mark leads to. The middleware takes for marked endpoints; the gate decides.
Invariants: a decorated function can be called as before, above or below the framework's own decorators.
"""

from mm_metering.decorators.metered import metered
from mm_metering.decorators.quota import message_quota, quota

__all__ = ["message_quota", "metered", "quota"]
