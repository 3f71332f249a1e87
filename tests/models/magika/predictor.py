"""Tell the type of a file by Google's magika model.

Beside this file belong model.onnx and config.min.json of one of magika's models, and magika's
content_types_kb.min.json. The rules are those of the magika library, written anew, so that its
answers can be compared with these.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx
        self.config = read_json("config.min.json")
        self.types = read_json("content_types_kb.min.json")

    def predict(self, data):
        return {"label": self.label(data)}

    def label(self, data):
        if not data:
            return "empty"
        begin, end = self.edges(data)
        if min(len(data), len(begin)) < self.config["min_file_size_for_dl"]:
            return label_of_few(data[: self.config["block_size"]])
        (scores,) = self.onnx.run(["target_label"], {"bytes": self.features(begin, end)})
        best = int(scores[0].argmax())
        return self.trusted(self.config["target_labels_space"][best], float(scores[0, best]))

    def edges(self, data):
        """The first and the last block, without the white space around the file."""
        block = self.config["block_size"]
        return data[:block].lstrip(), data[-block:].rstrip()

    def features(self, begin, end):
        """Begin and end as numbers, each padded on the side that faces the file's middle."""
        begin_size, end_size = self.config["beg_size"], self.config["end_size"]
        row = np.full((1, begin_size + end_size), self.config["padding_token"], dtype=np.int32)
        begin, end = begin[:begin_size], end[-end_size:]
        row[0, : len(begin)] = list(begin)
        row[0, row.size - len(end) :] = list(end)
        return row

    def trusted(self, label, score):
        """The model's label, or only text or unknown where it is not sure enough."""
        threshold = self.config["thresholds"].get(label, self.config["medium_confidence_threshold"])
        label = self.config["overwrite_map"].get(label, label)
        if score >= threshold:
            return label
        return "txt" if self.types[label]["is_text"] else "unknown"


def label_of_few(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return "unknown"
    return "txt"


def read_json(name):
    return json.loads((HERE / name).read_text())
