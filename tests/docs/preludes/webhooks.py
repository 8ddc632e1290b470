import base64

os.environ["MM_METERING_SECRET_KEY"] = base64.b64encode(bytes(range(32))).decode()

from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

secret, body = "whsec_" + base64.b64encode(bytes(24)).decode(), '{"type": "endpoint.test"}'
now = datetime.now(UTC)
headers = {
    "webhook-id": "msg_1",
    "webhook-timestamp": str(int(now.timestamp())),
    "webhook-signature": Webhook(secret).sign("msg_1", now, body),
}
