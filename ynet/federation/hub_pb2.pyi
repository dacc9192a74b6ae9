from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[Refusal]
    BUSY: _ClassVar[Refusal]
    UNREADABLE: _ClassVar[Refusal]
NONE: Refusal
BUSY: Refusal
UNREADABLE: Refusal

class FromSite(_message.Message):
    __slots__ = ("hello", "failure", "answer", "card", "leave", "pinned", "here")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    failure: TaskFailure
    answer: Answer
    card: bytes
    leave: Leave
    pinned: Pinned
    here: Here
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., failure: _Optional[_Union[TaskFailure, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., card: _Optional[bytes] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., pinned: _Optional[_Union[Pinned, _Mapping]] = ..., here: _Optional[_Union[Here, _Mapping]] = ...) -> None: ...

class ToSite(_message.Message):
    __slots__ = ("welcome", "task", "cancel", "query", "model", "authorities", "are_you_there", "copy")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    ARE_YOU_THERE_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    task: Task
    cancel: Cancel
    query: Query
    model: Model
    authorities: Authorities
    are_you_there: AreYouThere
    copy: Copy
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., authorities: _Optional[_Union[Authorities, _Mapping]] = ..., are_you_there: _Optional[_Union[AreYouThere, _Mapping]] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "version", "cases", "card", "keeps_tasks", "tasks", "oldest", "authorities", "instance")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    KEEPS_TASKS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    cases: int
    card: bytes
    keeps_tasks: bool
    tasks: _containers.RepeatedScalarFieldContainer[str]
    oldest: int
    authorities: _containers.RepeatedScalarFieldContainer[bytes]
    instance: bytes
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., cases: _Optional[int] = ..., card: _Optional[bytes] = ..., keeps_tasks: bool = ..., tasks: _Optional[_Iterable[str]] = ..., oldest: _Optional[int] = ..., authorities: _Optional[_Iterable[bytes]] = ..., instance: _Optional[bytes] = ...) -> None: ...

class AreYouThere(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Here(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Copy(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leave(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "version", "federation", "model", "ledger", "authorities")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    federation: str
    model: Model
    ledger: LedgerHead
    authorities: Authorities
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., federation: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., ledger: _Optional[_Union[LedgerHead, _Mapping]] = ..., authorities: _Optional[_Union[Authorities, _Mapping]] = ...) -> None: ...

class LedgerHead(_message.Message):
    __slots__ = ("number", "digest")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: str
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("name", "sha256", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "weights")
    ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    weights: Blob
    def __init__(self, id: _Optional[str] = ..., weights: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "kind", "content", "within_s", "files")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    content: Blob
    within_s: float
    files: _containers.RepeatedCompositeFieldContainer[Blob]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., content: _Optional[_Union[Blob, _Mapping]] = ..., within_s: _Optional[float] = ..., files: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ...) -> None: ...

class TaskFailure(_message.Message):
    __slots__ = ("task_id", "refused", "reason", "passing")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PASSING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    refused: bool
    reason: str
    passing: bool
    def __init__(self, task_id: _Optional[str] = ..., refused: bool = ..., reason: _Optional[str] = ..., passing: bool = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("task_id", "query_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    query_id: str
    def __init__(self, task_id: _Optional[str] = ..., query_id: _Optional[str] = ...) -> None: ...

class Card(_message.Message):
    __slots__ = ("certificate", "key", "signature", "lasting", "vouched")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LASTING_FIELD_NUMBER: _ClassVar[int]
    VOUCHED_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    key: bytes
    signature: bytes
    lasting: bytes
    vouched: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., key: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., lasting: _Optional[bytes] = ..., vouched: _Optional[bytes] = ...) -> None: ...

class Opening(_message.Message):
    __slots__ = ("certificate", "sealed", "signature", "lasting", "vouched")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LASTING_FIELD_NUMBER: _ClassVar[int]
    VOUCHED_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    sealed: bytes
    signature: bytes
    lasting: bytes
    vouched: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., sealed: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., lasting: _Optional[bytes] = ..., vouched: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("session", "opening", "number", "ciphertext")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    opening: bytes
    number: int
    ciphertext: bytes
    def __init__(self, session: _Optional[bytes] = ..., opening: _Optional[bytes] = ..., number: _Optional[int] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("id", "from_site", "body")
    ID_FIELD_NUMBER: _ClassVar[int]
    FROM_SITE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    id: str
    from_site: str
    body: bytes
    def __init__(self, id: _Optional[str] = ..., from_site: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("query_id", "body", "refusal")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    query_id: str
    body: bytes
    refusal: Refusal
    def __init__(self, query_id: _Optional[str] = ..., body: _Optional[bytes] = ..., refusal: _Optional[_Union[Refusal, str]] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("queries", "sites", "deadline_ms")
    class ToOne(_message.Message):
        __slots__ = ("site", "body")
        SITE_FIELD_NUMBER: _ClassVar[int]
        BODY_FIELD_NUMBER: _ClassVar[int]
        site: str
        body: bytes
        def __init__(self, site: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Question.ToOne]
    sites: _containers.RepeatedScalarFieldContainer[str]
    deadline_ms: int
    def __init__(self, queries: _Optional[_Iterable[_Union[Question.ToOne, _Mapping]]] = ..., sites: _Optional[_Iterable[str]] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("answers", "missing", "late", "busy", "unreadable", "cards", "unconfirmed")
    class FromOne(_message.Message):
        __slots__ = ("site", "body")
        SITE_FIELD_NUMBER: _ClassVar[int]
        BODY_FIELD_NUMBER: _ClassVar[int]
        site: str
        body: bytes
        def __init__(self, site: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...
    class CardOf(_message.Message):
        __slots__ = ("site", "card")
        SITE_FIELD_NUMBER: _ClassVar[int]
        CARD_FIELD_NUMBER: _ClassVar[int]
        site: str
        card: bytes
        def __init__(self, site: _Optional[str] = ..., card: _Optional[bytes] = ...) -> None: ...
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    CARDS_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answers.FromOne]
    missing: _containers.RepeatedScalarFieldContainer[str]
    late: _containers.RepeatedScalarFieldContainer[str]
    busy: _containers.RepeatedScalarFieldContainer[str]
    unreadable: _containers.RepeatedScalarFieldContainer[str]
    cards: _containers.RepeatedCompositeFieldContainer[Answers.CardOf]
    unconfirmed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, answers: _Optional[_Iterable[_Union[Answers.FromOne, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., late: _Optional[_Iterable[str]] = ..., busy: _Optional[_Iterable[str]] = ..., unreadable: _Optional[_Iterable[str]] = ..., cards: _Optional[_Iterable[_Union[Answers.CardOf, _Mapping]]] = ..., unconfirmed: _Optional[_Iterable[str]] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("blob", "offset", "part_bytes")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    blob: str
    offset: int
    part_bytes: int
    def __init__(self, blob: _Optional[str] = ..., offset: _Optional[int] = ..., part_bytes: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("task_id", "sha256", "size_bytes", "offset")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    sha256: str
    size_bytes: int
    offset: int
    def __init__(self, task_id: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadReceipt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Resumed(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr", "authorities")
    CSR_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    authorities: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, csr: _Optional[bytes] = ..., authorities: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Renewal(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class Authorities(_message.Message):
    __slots__ = ("in_force", "successor", "moves")
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    in_force: _containers.RepeatedScalarFieldContainer[bytes]
    successor: Successor
    moves: bool
    def __init__(self, in_force: _Optional[_Iterable[bytes]] = ..., successor: _Optional[_Union[Successor, _Mapping]] = ..., moves: bool = ...) -> None: ...

class Successor(_message.Message):
    __slots__ = ("certificate", "signature")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    signature: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Pinned(_message.Message):
    __slots__ = ("authorities",)
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    authorities: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, authorities: _Optional[_Iterable[bytes]] = ...) -> None: ...

class WitnessRequest(_message.Message):
    __slots__ = ("head", "signed")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    head: LedgerHead
    signed: Countersignature
    def __init__(self, head: _Optional[_Union[LedgerHead, _Mapping]] = ..., signed: _Optional[_Union[Countersignature, _Mapping]] = ...) -> None: ...

class WitnessReply(_message.Message):
    __slots__ = ("signed", "head")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    signed: Countersignature
    head: LedgerHead
    def __init__(self, signed: _Optional[_Union[Countersignature, _Mapping]] = ..., head: _Optional[_Union[LedgerHead, _Mapping]] = ...) -> None: ...

class Countersignature(_message.Message):
    __slots__ = ("number", "digest", "time", "signature", "certificate")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: str
    time: float
    signature: bytes
    certificate: bytes
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[str] = ..., time: _Optional[float] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("protocol", "version", "time", "site", "oldest", "connected")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    time: float
    site: str
    oldest: int
    connected: bool
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., time: _Optional[float] = ..., site: _Optional[str] = ..., oldest: _Optional[int] = ..., connected: bool = ...) -> None: ...
