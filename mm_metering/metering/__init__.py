"""The composition root: builds the parts, owns them, and forwards.

Owns: ``Metering``, built in ``building``; its parts and their life (``house``); its public methods by subject:
``apps``, ``limits``, ``usage``, ``tenants``, ``invoices``, ``whatif``, ``payments``, ``alerts``, ``audit``,
``privacy``, ``work`` and ``health``. What shows all of it, ``dashboard`` and ``portal``, is in ``building``.
Does not own: logic. A method opens the house, waits for what was acknowledged where it has to, and asks a part.
Invariants: a subject knows the house and the subjects it leans on, which it inherits; ``building`` alone knows all.
"""

from __future__ import annotations

from mm_metering.metering.building import Metering
from mm_metering.metering.environment import ENVIRONMENT, STRIPE

__all__ = ["ENVIRONMENT", "STRIPE", "Metering"]
