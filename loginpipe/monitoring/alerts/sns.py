"""Alerts by an SNS topic. A delivery that fails is one line that names the topic and the mend."""

from dataclasses import dataclass
from typing import Any

from loginpipe.common.aws import LOCAL_FAULTS, OUT_OF_REACH, aws_session, endpoint_fault
from loginpipe.common.errors import AlertError

# Longest wait for a connection, and for an answer: a tick of the sensor has a minute for everything.
_SECONDS = 5
_ATTEMPTS = 2


@dataclass(frozen=True)
class SnsTopic:
    """A standard topic of AWS SNS, in the region that its ARN names; credentials and endpoint are boto3's."""

    arn: str
    production: bool
    name: str = "sns"

    @property
    def place(self) -> str:
        """The topic's name and region."""
        return f"SNS topic {self.arn.split(':')[5]} in {self._region}"

    @property
    def _region(self) -> str:
        return self.arn.split(":")[3]

    def deliver(self, subject: str, text: str) -> None:
        """Publish the text.

        Raises:
            AlertError: SNS did not take it; in production also where the endpoint is not https.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client()
            fault = endpoint_fault(client) if self.production else None
            if fault is None:
                client.publish(TopicArn=self.arn, Subject=subject, Message=text)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise AlertError(f"{self.place}: SNS answered {code}; it takes sns:Publish on the topic") from None
        except BotoCoreError as error:
            raise AlertError(f"{self.place}: {LOCAL_FAULTS.get(type(error).__name__, OUT_OF_REACH)}") from None
        except (ValueError, TypeError, LookupError):
            raise AlertError(f"{self.place}: its endpoint does not answer as SNS does: mend AWS_ENDPOINT_URL") from None
        if fault:
            raise AlertError(f"{self.place}: {fault}")

    def _client(self) -> Any:
        from botocore.config import Config

        service: Any = "sns"
        retries: Any = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
        config = Config(retries=retries, connect_timeout=_SECONDS, read_timeout=_SECONDS, user_agent_extra="loginpipe")
        return aws_session().client(service, region_name=self._region, config=config)
