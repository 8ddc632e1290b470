"""What developers write on their functions.

Owns: the decorators, which mark or wrap and never change a signature.
Does not own: what a mark leads to. The middleware takes for marked endpoints; the gate decides.
Invariants: a decorated function keeps its signature and its kind, above or below the framework's own decorators; where
nobody is bound, calling it is NotBound.
"""

from mm_metering.decorators.metered import metered
from mm_metering.decorators.quota import MeteredSocket, message_quota, quota

__all__ = ["MeteredSocket", "message_quota", "metered", "quota"]
