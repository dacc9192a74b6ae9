from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("user", "query", "consult", "check")
    USER_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CONSULT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    user: str
    query: Query
    consult: Consult
    check: ConsultCheck
    def __init__(self, user: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., consult: _Optional[_Union[Consult, _Mapping]] = ..., check: _Optional[_Union[ConsultCheck, _Mapping]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("model_id", "codes", "k", "filter", "radius", "one_per_patient")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    ONE_PER_PATIENT_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    codes: _containers.RepeatedScalarFieldContainer[bytes]
    k: int
    filter: Filter
    radius: int
    one_per_patient: bool
    def __init__(self, model_id: _Optional[str] = ..., codes: _Optional[_Iterable[bytes]] = ..., k: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., radius: _Optional[int] = ..., one_per_patient: bool = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("labels", "split", "attributes", "since", "until")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    split: str
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    since: str
    until: str
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., split: _Optional[str] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., since: _Optional[str] = ..., until: _Optional[str] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Consult(_message.Message):
    __slots__ = ("id", "token", "note")
    ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    token: bytes
    note: str
    def __init__(self, id: _Optional[bytes] = ..., token: _Optional[bytes] = ..., note: _Optional[str] = ...) -> None: ...

class ConsultCheck(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("found", "suppressed", "refused", "other_model", "unreadable", "consult_kept", "no_such_case", "consult_answers")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    SUPPRESSED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    OTHER_MODEL_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    CONSULT_KEPT_FIELD_NUMBER: _ClassVar[int]
    NO_SUCH_CASE_FIELD_NUMBER: _ClassVar[int]
    CONSULT_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    found: Found
    suppressed: Suppressed
    refused: Refused
    other_model: OtherModel
    unreadable: Unreadable
    consult_kept: ConsultKept
    no_such_case: NoSuchCase
    consult_answers: ConsultAnswers
    def __init__(self, found: _Optional[_Union[Found, _Mapping]] = ..., suppressed: _Optional[_Union[Suppressed, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., other_model: _Optional[_Union[OtherModel, _Mapping]] = ..., unreadable: _Optional[_Union[Unreadable, _Mapping]] = ..., consult_kept: _Optional[_Union[ConsultKept, _Mapping]] = ..., no_such_case: _Optional[_Union[NoSuchCase, _Mapping]] = ..., consult_answers: _Optional[_Union[ConsultAnswers, _Mapping]] = ...) -> None: ...

class Found(_message.Message):
    __slots__ = ("per_code", "labels")
    PER_CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    per_code: _containers.RepeatedCompositeFieldContainer[Hits]
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, per_code: _Optional[_Iterable[_Union[Hits, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Hits(_message.Message):
    __slots__ = ("hits",)
    HITS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("distance", "token", "label", "ties")
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    distance: int
    token: bytes
    label: int
    ties: int
    def __init__(self, distance: _Optional[int] = ..., token: _Optional[bytes] = ..., label: _Optional[int] = ..., ties: _Optional[int] = ...) -> None: ...

class Suppressed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason",)
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OTHER: _ClassVar[Refused.Reason]
        NOT_ALLOWED: _ClassVar[Refused.Reason]
        QUOTA_SPENT: _ClassVar[Refused.Reason]
        NOT_ON_THE_LIST: _ClassVar[Refused.Reason]
        TOO_LARGE: _ClassVar[Refused.Reason]
        NOT_CONFIRMED: _ClassVar[Refused.Reason]
    OTHER: Refused.Reason
    NOT_ALLOWED: Refused.Reason
    QUOTA_SPENT: Refused.Reason
    NOT_ON_THE_LIST: Refused.Reason
    TOO_LARGE: Refused.Reason
    NOT_CONFIRMED: Refused.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: Refused.Reason
    def __init__(self, reason: _Optional[_Union[Refused.Reason, str]] = ...) -> None: ...

class OtherModel(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class Unreadable(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConsultKept(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NoSuchCase(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConsultAnswers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[ConsultAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[ConsultAnswer, _Mapping]]] = ...) -> None: ...

class ConsultAnswer(_message.Message):
    __slots__ = ("id", "word", "text")
    class Word(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPEN: _ClassVar[ConsultAnswer.Word]
        YES: _ClassVar[ConsultAnswer.Word]
        NO: _ClassVar[ConsultAnswer.Word]
        UNKNOWN: _ClassVar[ConsultAnswer.Word]
    OPEN: ConsultAnswer.Word
    YES: ConsultAnswer.Word
    NO: ConsultAnswer.Word
    UNKNOWN: ConsultAnswer.Word
    ID_FIELD_NUMBER: _ClassVar[int]
    WORD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    word: ConsultAnswer.Word
    text: str
    def __init__(self, id: _Optional[bytes] = ..., word: _Optional[_Union[ConsultAnswer.Word, str]] = ..., text: _Optional[str] = ...) -> None: ...
