await metering.put_tenant("acme", plan="pro")
