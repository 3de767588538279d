"""Every error the agent raises on purpose, and who is expected to catch it.

* AgentError
  + ConfigError              main: print the line, exit 2
  + IpcError
    - IpcPeerError           listener and connector: close, count, wait for another peer
    - IpcMessageError        owner of the channel: close it, connect anew
    - IpcClosedError         owner of the channel: connect anew
  + SensorError
    - EbpfUnavailableError   sensor: go on without it, say why in the heartbeat
    - SampleError            sensor: count the sample as lost, go on
  + SpoolError
    - SpoolLockedError       main: print the line, exit 2 (another sensor runs)
    - SpoolFormatError       recovery and reader: count it, go on behind the damage
  + CredentialsError         main: print the line, exit 2; uploader, later on: log it, try again
  + StreamError
    - StreamBrokenError      uploader: pause, connect anew
    - ServerLiedError        uploader: log it, pause, connect anew
  + KeyringError             main: print the line, exit 2
  + ActionError
    - ActionRefusedError     responder: report REFUSED (EXPIRED when it came too late), never retry
    - ActionFailedError      responder: report FAILED, never retry
  + JournalError             responder: refuse the order, for without a durable intent nothing is done
"""


class AgentError(Exception):
    """Base of all of them."""


class ConfigError(AgentError):
    """A setting is missing or wrong; the text names file, line and field, never a secret's value."""


class IpcError(AgentError):
    """Base of what the doors between the three processes raise."""


class IpcPeerError(IpcError):
    """The other end of a socket runs as a user that has no business there."""


class IpcMessageError(IpcError):
    """A datagram is not one of ours."""


class IpcClosedError(IpcError):
    """The peer is gone."""


class SensorError(AgentError):
    """Base of what the sensor raises."""


class EbpfUnavailableError(SensorError):
    """No BPF program can run here; the text says why, for a person."""


class SampleError(SensorError):
    """Bytes from a ring are not a sample of ours."""


class SpoolError(AgentError):
    """Base of what the spool raises."""


class SpoolLockedError(SpoolError):
    """Another process writes this spool."""


class SpoolFormatError(SpoolError):
    """Bytes in the spool are not what they must be."""


class CredentialsError(AgentError):
    """A certificate or key file cannot be used; the text names the file, never its content."""


class StreamError(AgentError):
    """Base of what ends a stream to ingest."""


class StreamBrokenError(StreamError):
    """The stream ended or never came to be; the text says why, for a person."""


class ServerLiedError(StreamError):
    """The server answered what was never asked."""


class KeyringError(AgentError):
    """A trusted key is not a key."""


class ActionError(AgentError):
    """Base of what keeps an order from being carried out. ``reason`` is a word from a closed set."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class ActionRefusedError(ActionError):
    """The order must not be carried out."""


class ActionFailedError(ActionError):
    """The order was right and could not be carried out."""


class JournalError(AgentError):
    """The responder's memory on disk cannot take an entry."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
