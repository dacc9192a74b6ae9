from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lookup(_message.Message):
    __slots__ = ("model_id", "code", "k", "split")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    code: bytes
    k: int
    split: str
    def __init__(self, model_id: _Optional[str] = ..., code: _Optional[bytes] = ..., k: _Optional[int] = ..., split: _Optional[str] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("distance", "token", "label", "ties")
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    distance: int
    token: bytes
    label: str
    ties: int
    def __init__(self, distance: _Optional[int] = ..., token: _Optional[bytes] = ..., label: _Optional[str] = ..., ties: _Optional[int] = ...) -> None: ...

class Found(_message.Message):
    __slots__ = ("hits",)
    HITS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ...) -> None: ...

class Declined(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class LookupReply(_message.Message):
    __slots__ = ("found", "declined")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    found: Found
    declined: Declined
    def __init__(self, found: _Optional[_Union[Found, _Mapping]] = ..., declined: _Optional[_Union[Declined, _Mapping]] = ...) -> None: ...
