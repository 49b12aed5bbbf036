"""What `doctor` looks at of alerts: where they go. Whether they arrive, `loginpipe alerts test` shows."""

from loginpipe.common.secrets import alert_webhook_url
from loginpipe.common.settings import Settings
from loginpipe.monitoring.alerts.delivery import channels


def alerts(settings: Settings) -> str:
    """Say where alerts go; their addresses were validated with the settings, or are as they are looked up."""
    alert_webhook_url(settings)
    places = [channel.place for channel in channels(settings)]
    if not places:
        return "off: neither LOGINPIPE_ALERT_WEBHOOK_URL nor LOGINPIPE_ALERT_SNS_TOPIC is set"
    return f"{' and '.join(places)}; `loginpipe alerts test` shows whether they arrive"
