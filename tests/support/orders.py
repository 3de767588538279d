"""Valid orders to break one thing of: what the actioner would sign for a responder of the tests."""

import uuid
from dataclasses import dataclass, field

from nacl.signing import SigningKey

from microedr.ids import process_key, process_uid
from microedr.signing import ACTION_PAYLOAD_TYPE, key_id, pre_authentication_encoding
from microedr.v1.action_pb2 import Action, ActionType, ProcessTarget, Signature, SignedAction

TENANT = "acme"
HOST = "host-a"
BOOT = "boot-1"
PROCESS_KEY = process_key(HOST, BOOT)
NONCE = bytes(range(16))
NOW_UNIX_NS = 1_750_000_000_000_000_000
SECOND_NS = 1_000_000_000
KEY = SigningKey(b"\x01" * 32)
OTHER_KEY = SigningKey(b"\x02" * 32)


@dataclass(frozen=True, slots=True)
class Order:
    """One kill order; ``replace`` a field and ``sign`` it."""

    key: SigningKey = KEY
    hint: str | None = None
    payload_type: str = ACTION_PAYLOAD_TYPE
    action_id: str = str(uuid.UUID(int=7))
    tenant_id: str = TENANT
    host_id: str = HOST
    boot_id: str = BOOT
    session_nonce: bytes = NONCE
    sequence: int = 1
    not_before_unix_ns: int = NOW_UNIX_NS - 30 * SECOND_NS
    expires_unix_ns: int = NOW_UNIX_NS + 120 * SECOND_NS
    type: ActionType.ValueType = ActionType.ACTION_TYPE_KILL_PROCESS
    pid: int = 4242
    process_uid: bytes | None = None
    """None: the right one for pid and start."""
    start_boot_ns: int = 99 * SECOND_NS
    exe: str = "/tmp/evil"
    approved_by: tuple[str, ...] = field(default=("rule:demo",))

    def action(self) -> Action:
        """The order itself."""
        return Action(
            action_id=self.action_id,
            tenant_id=self.tenant_id,
            host_id=self.host_id,
            session_nonce=self.session_nonce,
            sequence=self.sequence,
            not_before_unix_ns=self.not_before_unix_ns,
            expires_unix_ns=self.expires_unix_ns,
            type=self.type,
            process=ProcessTarget(
                pid=self.pid,
                process_uid=self._process_uid() if self.process_uid is None else self.process_uid,
                start_boot_ns=self.start_boot_ns,
                exe=self.exe,
            ),
            reason="alert:1",
            alert_id="1",
            approved_by=self.approved_by,
        )

    def _process_uid(self) -> bytes:
        return process_uid(process_key(HOST, self.boot_id), self.pid, self.start_boot_ns)

    def sign(self) -> bytes:
        """A serialised SignedAction."""
        return sign_bytes(self.action().SerializeToString(), self.key, hint=self.hint, payload_type=self.payload_type)


def sign_bytes(
    content: bytes, key: SigningKey, *, hint: str | None = None, payload_type: str = ACTION_PAYLOAD_TYPE
) -> bytes:
    """Any bytes, signed as if they were an order."""
    signature = key.sign(pre_authentication_encoding(payload_type, content)).signature
    name = key_id(bytes(key.verify_key)) if hint is None else hint
    return SignedAction(action=content, signatures=[Signature(key_id=name, signature=signature)]).SerializeToString()
