"""Alerts by an SNS topic. A delivery that fails is one line that names the topic and the mend."""

from dataclasses import dataclass

from loginpipe.common.aws import Wording, aws_client, aws_errors
from loginpipe.common.errors import AlertError

# A tick of the sensor has a minute for everything.
_READ_SECONDS = 5
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
        wording = Wording(AlertError, self.place, grant="sns:Publish on it")
        client = aws_client(
            "sns",
            wording,
            production=self.production,
            region=self._region,
            attempts=_ATTEMPTS,
            read_seconds=_READ_SECONDS,
        )
        with aws_errors(wording):
            client.publish(TopicArn=self.arn, Subject=subject, Message=text)
