"""What runs here in numbers, for whoever watches: metrics, and attributes of spans.

Owns: the one list of instruments, sums of this process by bounded attributes, their two exposures (OpenTelemetry and
Prometheus's text), the shipped dashboard and alarms. Does not own: what is counted when (each room says that), an SDK
or an exporter (the host's). Invariants: no tenant in any of it unless the host asks for that; no attribute has more
values than its bound; a request adds to integers, and an SDK is met when it collects.
"""
