from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecommendRequest(_message.Message):
    __slots__ = ("k", "explain", "without")
    K_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    k: int
    explain: bool
    without: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, k: _Optional[int] = ..., explain: _Optional[bool] = ..., without: _Optional[_Iterable[str]] = ...) -> None: ...

class Recommendations(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Recommendation]
    def __init__(self, items: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("id", "title", "score", "why")
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    score: float
    why: Explanation
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., score: _Optional[float] = ..., why: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: str
    def __init__(self, item: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("score", "own", "shares", "others")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    score: float
    own: float
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    others: float
    def __init__(self, score: _Optional[float] = ..., own: _Optional[float] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., others: _Optional[float] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("id", "title", "share")
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    share: float
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("item", "kind", "value", "time")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    item: str
    kind: str
    value: float
    time: float
    def __init__(self, item: _Optional[str] = ..., kind: _Optional[str] = ..., value: _Optional[float] = ..., time: _Optional[float] = ...) -> None: ...

class Logged(_message.Message):
    __slots__ = ("new", "in_catalogue")
    NEW_FIELD_NUMBER: _ClassVar[int]
    IN_CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    new: bool
    in_catalogue: bool
    def __init__(self, new: _Optional[bool] = ..., in_catalogue: _Optional[bool] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("item", "everything")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    item: str
    everything: bool
    def __init__(self, item: _Optional[str] = ..., everything: _Optional[bool] = ...) -> None: ...

class Forgotten(_message.Message):
    __slots__ = ("interactions",)
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    interactions: int
    def __init__(self, interactions: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("run", "round", "model", "explains", "items", "interactions")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXPLAINS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    model: str
    explains: bool
    items: int
    interactions: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., model: _Optional[str] = ..., explains: _Optional[bool] = ..., items: _Optional[int] = ..., interactions: _Optional[int] = ...) -> None: ...
