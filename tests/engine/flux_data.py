"""Our values for the numbers of MLUtils and OneHotArrays about data. Julia's observations are along the last axis, ours along the first."""

from typing import Any

import numpy as np

from engine import ops
from engine.core import lift
from engine.data import DataLoader, Table, one_hot, split, stratified, undersample
from engine.data.windows import Windows, line_of, starts
from tests.engine.flux_oracles import array, runs


def sizes(parts: Any) -> list[int]:
    return [len(part) for part in parts]


@runs("data", "DataLoader(2x5", "n=64")
def batch_sizes(name: str, inputs: dict[str, Any]) -> list[int]:
    return sizes(DataLoader(np.arange(inputs["n"]), inputs["batchsize"], partial=inputs.get("partial", True)))


@runs("data", "DataLoader batches content")
def batches(name: str, inputs: dict[str, Any]) -> list[Any]:
    return [batch.T.tolist() for batch in DataLoader(array(inputs["x"]).T, inputs["batchsize"])]


@runs("data", "partial=false")
def whole_batches(name: str, inputs: dict[str, Any]) -> list[int]:
    loaders = [DataLoader(np.arange(n), size, partial=False) for n, size in inputs["cases"]]
    assert [len(sizes(loader)) for loader in loaders] == sizes(loaders)
    return sizes(loaders)


@runs("data", "custom collate")
def collated(name: str, inputs: dict[str, Any]) -> str:
    """A batch is an array, which any function takes: the loader needs none."""
    return next(iter(map("".join, DataLoader(inputs["data"], inputs["batchsize"]))))


@runs("data", "splitobs")
def split_sizes(name: str, inputs: dict[str, Any]) -> list[int]:
    return sizes(split(np.arange(inputs["n"]), inputs["at"]))


@runs("data", "stratified split")
def split_by_label(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    labels = inputs["labels"]
    return {"at.5": stratified(labels, labels, 0.5)[0], "at.25_first": stratified(labels, labels, 0.25)[0]}


@runs("data", "undersample")
def undersampled(name: str, inputs: dict[str, Any]) -> list[int]:
    return sizes(undersample(np.ones((5, 2)), list("accab")))


@runs("data", "chunk")
def chunks(name: str, inputs: dict[str, Any]) -> dict[str, list[int]]:
    """Three pieces of ten rows are batches of a third, rounded up."""
    return {"a": sizes(DataLoader(np.arange(10), -(-10 // 3))), "b": sizes(split(np.arange(6), 2))}


@runs("data", "slidingwindow")
def windows(name: str, inputs: dict[str, Any]) -> np.ndarray:
    numbers, cut = np.arange(11, 31), Windows(length=6, stride=3)
    everywhere = np.ones(len(numbers), bool)
    return numbers[starts(line_of(Table.from_columns({"x": numbers}), cut), everywhere, cut, everywhere, horizon=False)]


@runs("data", "batchseq", "batch_sequence")
def side_by_side(name: str, inputs: dict[str, Any]) -> np.ndarray:
    sequences = [np.array(x, np.float64) for x in ([1, 2, 3], [4, 5] if name.startswith("batchseq") else [10, 20])]
    longest = max(map(len, sequences))
    return lift(ops.stack(*(ops.pad(x, low=(0,), high=(longest - len(x),)) for x in sequences), axis=1)).numpy()


@runs("data", "onehotbatch")
def columns_by_label(name: str, inputs: dict[str, Any]) -> np.ndarray:
    codes = one_hot(list("abracadabra"), "abcde", default="e", dtype="float64")
    return lift(ops.matmul(codes, np.arange(1.0, 16.0).reshape(5, 3))).numpy().T
