import importlib
from abc import ABC, abstractmethod

import torch


class BaseModel(torch.nn.Module, ABC):
    default_conf = {}
    required_inputs = []

    def __init__(self, conf):
        super().__init__()
        self.conf = {**self.default_conf, **conf}
        self._init(self.conf)

    def forward(self, data):
        absent = [key for key in self.required_inputs if key not in data]
        assert not absent, absent
        return self._forward(data)

    @abstractmethod
    def _init(self, conf): ...

    @abstractmethod
    def _forward(self, data): ...


def dynamic_load(root, name):
    path = f"{root.__name__}.{name}"
    module = importlib.import_module(path)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == path and issubclass(value, BaseModel)
    ]
    assert len(classes) == 1, classes
    return classes[0]
