await metering.put_tenant("acme", plan="pro")
await metering.record(UsageEvent(tenant="acme", event_type="api_call", resource="/v1", quantity=100))
