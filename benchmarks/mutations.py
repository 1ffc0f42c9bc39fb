"""Damages files in the ways that a fault or an ill will does: JSON, csv, safetensors, parquet, plain bytes, folders.

Each function takes a random generator and a content, and returns the damaged content and a sentence that says what was
done. The same generator gives the same damage.
"""

import gzip
import io
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet

Damage = tuple[bytes, str]

DEEP = 100_000
"""Levels of a nested JSON value; Python's own reader gives up at about a thousand."""
ESCAPES = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\tb",
    "line\nerror: line",
    "\u202eltr",
    "\x00",
)
"""Texts that a terminal obeys, or that look like another line of the output."""
PATHS = (
    "../outside",
    "../../outside/secret.txt",
    "models/../../outside",
    "/etc/passwd",
    "/",
    "~",
    ".",
    "..",
    "-rf",
    "a" * 300,
)
"""Texts that lead out of a folder if they are used as paths, and some that no file can have as its name."""
NUMBERS = (
    "100000000",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e400",
    "-1e400",
    "1e-320",
    "NaN",
    "Infinity",
    str(2**31),
    str(2**63),
    str(2**64),
)
HUGE = "9" * 5000
"""More digits than Python turns into a whole number."""
KINDS = ("bert", "trbert", "distilbert", "modernbert", "llama", "deberta-v2", "gpt2", "t5", "vit", "no-such-model")
SWITCHES: dict[str, tuple[str, ...]] = {
    "auto_map": ('{"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}', '"evil--evil.Evil"'),
    "trust_remote_code": ("true",),
    "quantization_config": ('{"quant_method": "bitsandbytes", "load_in_4bit": true}', '{"quant_method": "gptq"}', "[]"),
    "attn_implementation": ('"flash_attention_2"', '"evil/kernel"', '"eager"', '"no_such"'),
    "_attn_implementation": ('"evil/kernel:run"', '"flex_attention"'),
    "model_type": tuple(json.dumps(kind) for kind in KINDS),
    "architectures": ('["GPT2LMHeadModel"]', '["BertForSequenceClassification"]', '"Bert"', "[null]"),
    "problem_type": ('"regression"', '"multi_label_classification"', '"no_such"'),
    "id2label": ('{"0": "A", "1": "B"}', '{"0": "\\u001b[31m"}', '{"a": "b"}', '{"100000000": "A"}', "[]"),
    "num_labels": ("100000000", "0", '"two"'),
    "dtype": ('"float16"', '"no_such"', '"int8"', "{}"),
    "is_decoder": ("true",),
    "tie_word_embeddings": ("false",),
    "output_hidden_states": ("true",),
    "return_dict": ("false",),
    "torchscript": ("true",),
    "chunk_size_feed_forward": ("3", "-1"),
    "layer_types": ('["no_such"]', "[]", '"full_attention"'),
    "rope_parameters": ('{"rope_type": "no_such"}', "[]", '{"rope_theta": "NaN"}'),
    "hidden_act": ('"no_such"', "null", '"os.system"'),
    "base_model_tp_plan": ('{"layers.*": "colwise"}', "7"),
    "_name_or_path": ('"../../outside"', '"evil/evil"'),
    "transformers_weights": ('"../../outside/secret.txt"', '"model.bin"'),
    "tokenizer_class": ('"LlamaTokenizer"', '"BertTokenizer"', '"NoSuchTokenizer"', '"evil.Tokenizer"'),
    "tokenizer_file": ('"/etc/passwd"', '"../../outside/secret.txt"'),
    "vocab_file": ('"/etc/passwd"',),
    "chat_template": ('"{{ cycler.__init__.__globals__ }}"', "{}"),
    "model_max_length": ("0", "-5", "1e400", '"ten"', "1"),
    "added_tokens_decoder": ('{"100000000": {"content": "x"}}', '{"0": "x"}', "[]", '{"a": {"content": 1}}'),
    "extra_special_tokens": ('{"x": "y"}', '["y"]', "7"),
    "padding_side": ('"no_such"', "7"),
    "truncation_side": ('"left"', '"no_such"'),
    "weight_map": ('{"a": "../../outside/secret.txt"}',),
}
"""Keys that change what a loader does, each with values in JSON."""


def damage_bytes(draw: Random, content: bytes) -> Damage:
    """Flips bits, cuts off, takes out, puts in or repeats bytes at a random place."""
    if not content:
        return b"\xff", "one byte in an empty file"
    place, size = draw.randrange(len(content)), draw.choice((1, 2, 8, 64, 1000))
    kind = draw.choice(("flip", "cut", "take", "put", "repeat", "zero", "empty", "swap"))
    said = f"{kind} at byte {place} of {len(content)}"
    if kind == "flip":
        flipped, several = bytearray(content), draw.choice((1, 1, 3, 20))
        for _ in range(several):
            flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return bytes(flipped), f"flip {several} bits"
    if kind == "cut":
        return content[:place], said
    if kind == "take":
        return content[:place] + content[place + size :], f"{said}, {size} bytes"
    if kind == "put":
        random = draw.choice(
            (draw.randbytes(size), b"\x00" * size, b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b'"', b"\r")
        )
        return content[:place] + random + content[place:], f"{said}: {random[:20]!r}"
    if kind == "repeat":
        return content[:place] + content[place : place + size] * draw.choice((2, 100)) + content[place:], said
    if kind == "zero":
        return content[:place] + b"\x00" * min(size, len(content) - place) + content[place + size :], said
    if kind == "swap":
        return content[place:] + content[:place], said
    return b"", "an empty file"


def raw_value(draw: Random, others: Sequence[str] = ()) -> str:
    """Returns a value in JSON that does not belong where it comes to stand.

    Args:
        draw: the random generator.
        others: further values to choose from.
    """
    fixed = (
        '""',
        "null",
        "true",
        "[]",
        "{}",
        "[null]",
        '"auto"',
        '"\\ud800"',
        '"\\u0000"',
        HUGE,
        json.dumps("x" * 100_000),
    )
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(NUMBERS)
    if kind == 1:
        return json.dumps(draw.choice(PATHS))
    if kind == 2:
        return json.dumps(draw.choice(ESCAPES))
    if kind == 3 and others:
        return draw.choice(others)
    if kind == 4 and draw.random() < 0.5:
        depth = draw.choice((100, 900, DEEP))
        opened, closed = draw.choice((("[", "]"), ('{"a":', "}")))
        return opened * depth + ("1" if opened != "[" else "") + closed * depth
    return draw.choice(fixed)


def damage_json(draw: Random, content: bytes, switches: Sequence[str] = tuple(SWITCHES)) -> Damage:
    """Changes, removes, doubles, renames or adds one to three values of a JSON object, at any depth.

    Args:
        draw: the random generator.
        content: the JSON text. It may have been damaged before: then its bytes are damaged.
        switches: the keys of `SWITCHES` that are added.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return damage_bytes(draw, content)
    if not isinstance(values, dict | list) or not values:
        return raw_value(draw).encode(), "another value instead of the whole"
    if draw.random() < 0.03:
        raw = raw_value(draw)
        return raw.encode(), f"{_brief(raw)} instead of the whole"
    raws: list[str] = []
    said = [_change(draw, values, raws, switches) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    text = json.dumps(values, indent=draw.choice((None, 2)), ensure_ascii=draw.random() < 0.9)
    for number, raw in enumerate(raws):
        text = text.replace(json.dumps(_mark(number)), raw).replace(f"{_mark(number)}key", raw.strip('"'))
    return text.encode("utf-8", "surrogatepass"), "; ".join(said)


def _mark(number: int) -> str:
    return f"@@{number}@@"


def _change(draw: Random, values: Any, raws: list[str], switches: Sequence[str]) -> str:
    """Changes one value in place. What is no value of Python's, such as a double key, is a mark until it is written."""
    spots = list(_spots(values))
    if not spots:
        return "nothing"
    holder, key, path = draw.choice(spots)
    others = [json.dumps(at[name]) for at, name, _ in draw.sample(spots, min(4, len(spots)))]
    kind = draw.choice(("value", "value", "value", "remove", "double", "rename", "add"))
    if kind == "add" and isinstance(holder, dict) and switches:
        added = draw.choice(tuple(switches))
        raw = draw.choice(SWITCHES[added]) if draw.random() < 0.7 else raw_value(draw, others)
        raws.append(raw)
        (values if isinstance(values, dict) and draw.random() < 0.7 else holder)[added] = _mark(len(raws) - 1)
        return f"{added} = {_brief(raw)} is added"
    if kind == "remove":
        del holder[key]
        return f"{path} is removed"
    raw = raw_value(draw, others)
    if kind == "value" and key in SWITCHES and draw.random() < 0.5:
        raw = draw.choice(SWITCHES[str(key)])
    if kind == "double":
        if isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), holder[key])
            return f"{path} stands twice"
        # The second of two equal keys is written through a mark that holds the first one's whole text.
        raws.append(f"{json.dumps(holder[key])}, {json.dumps(key)}: {raw}")
        holder[key] = _mark(len(raws) - 1)
        return f"{path} stands twice, the second time as {_brief(raw)}"
    if kind == "rename" and isinstance(holder, dict):
        name = draw.choice((*ESCAPES, *PATHS, "", "x" * 5000, "__class__", "self", str(key).upper()))
        holder[name] = holder.pop(key)
        return f"{path} is renamed to {_brief(json.dumps(name))}"
    raws.append(raw)
    holder[key] = _mark(len(raws) - 1)
    return f"{path} = {_brief(raw)}"


def _spots(values: Any, path: str = "") -> Any:
    """Yields every place of a JSON value: what holds it, its key, and its path."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in list(pairs):
        yield values, key, _brief(f"{path}/{key}")
        if isinstance(value, dict | list):
            yield from _spots(value, f"{path}/{key}")


def _brief(text: str) -> str:
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 60 else f"{shown[:40]}… ({len(shown):,} characters)"


def damage_csv(draw: Random, content: bytes, cells: Sequence[str] = ()) -> Damage:
    """Changes cells, rows, columns, separators or the encoding of a csv file, or how it is quoted.

    Args:
        draw: the random generator.
        content: the csv file.
        cells: further cells to choose from.
    """
    try:
        rows = [line.split(",") for line in content.decode().splitlines()]
    except UnicodeDecodeError:
        return damage_bytes(draw, content)
    if not rows or not rows[0]:
        return damage_bytes(draw, content)
    kind = draw.choice(
        ("cell", "cell", "cell", "cell", "row", "double", "ragged", "column", "header", "quote", "text", "encoding")
    )
    row, column = draw.randrange(len(rows)), draw.randrange(len(rows[0]))
    said = f"{kind} at row {row}, column {column}"
    if kind == "cell":
        for _ in range(draw.choice((1, 1, 2, 4))):
            row = draw.randrange(min(1, len(rows) - 1), len(rows))
            column = draw.randrange(len(rows[row]))
            others = (
                *cells,
                *cells,
                *NUMBERS,
                *PATHS,
                *ESCAPES,
                HUGE,
                "x" * 200_000,
                "",
                " ",
                "nan",
                "True",
                '"a,b"',
                '"',
            )
            rows[row][column] = draw.choice(others)
            said += f"; row {row}, column {column} = {_brief(rows[row][column])}"
    elif kind == "row":
        del rows[row]
    elif kind == "double":
        rows[row:row] = [list(rows[row]) for _ in range(draw.choice((1, 1, 50)))]
    elif kind == "ragged":
        rows[row] = rows[row][:column] if draw.random() < 0.5 else rows[row] + [""] * draw.choice((1, 50_000))
    elif kind == "column":
        for each in rows:
            del each[column : column + 1]
    elif kind == "header":
        rows[0][column] = draw.choice((*ESCAPES, *rows[0], "", "x" * 5000, "ſ", '"label"'))
        said += f" = {_brief(rows[0][column])}"
    text = "\n".join(",".join(each) for each in rows) + "\n"
    if kind == "quote":
        place = draw.randrange(len(text))
        text = text[:place] + '"' + text[place:]
    elif kind == "text":
        old, new = draw.choice(
            ((",", ";"), (",", "\t"), ("\n", "\r"), ("\n", "\r\n"), ("\n", "\n\n"), (",", "\x1f"), ("\n", "\u2028"))
        )
        text = text.replace(old, new)
        said = f"{old!r} becomes {new!r}"
    elif kind == "encoding":
        name = draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp037"))
        return text.encode(
            name, "surrogatepass" if name.startswith("utf-") and name != "utf-7" else "strict"
        ), f"encoded as {name}"
    return text.encode("utf-8", "surrogatepass"), said


def damage_lines(draw: Random, content: bytes) -> Damage:
    """Damages one line of a file with a JSON value in each line; or removes, doubles or joins lines."""
    lines = content.splitlines()
    if not lines:
        return damage_bytes(draw, content)
    place, kind = (
        draw.randrange(len(lines)),
        draw.choice(("json", "json", "json", "row", "double", "join", "list", "blank")),
    )
    said = f"{kind} at line {place}"
    if kind == "json":
        lines[place], more = damage_json(draw, lines[place].strip(), ())
        lines[place] = lines[place].replace(b"\n", b" ")
        said += f": {more}"
    elif kind == "row":
        del lines[place]
    elif kind == "double":
        lines[place:place] = [lines[place]] * draw.choice((1, 50))
    elif kind == "join":
        lines[place : place + 2] = [b"".join(lines[place : place + 2])]
    elif kind == "list":
        lines = [b"[", *(line + b"," for line in lines[:-1]), lines[-1], b"]"]
    else:
        lines[place:place] = [draw.choice((b"", b"null", b"[]", b"//", b"\xef\xbb\xbf", b"\x00", b"NaN"))]
    return b"\n".join(lines) + b"\n", said


def damage_safetensors(draw: Random, content: bytes) -> Damage:
    """Changes the length, the dtypes, shapes or offsets in the header of a safetensors file, or its numbers."""
    size = struct.unpack("<Q", content[:8])[0]
    header, numbers = content[8 : 8 + size], content[8 + size :]
    kind = draw.choice(("length", "tensor", "tensor", "tensor", "json", "numbers", "numbers", "longer", "metadata"))
    if kind == "length":
        length = draw.choice((0, 1, 7, size - 1, size + 1, 10**8, 2**31, 2**32, 2**63, 2**64 - 1, len(content)))
        return struct.pack("<Q", length) + header + numbers, f"the header's length is {length}"
    if kind == "numbers":
        place = 4 * draw.randrange(max(1, len(numbers) // 4))
        several = draw.choice((4, 4, 64, len(numbers)))
        value = draw.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00"))
        changed = numbers[:place] + value * (several // 4)
        return content[: 8 + size] + (changed + numbers[len(changed) :])[
            : len(numbers)
        ], f"{value!r} in {several} bytes from {place}"
    if kind == "longer":
        return content + draw.choice((b"\x00", b"\x00" * 4096)), "bytes after the end"
    if kind == "json":
        text, said = damage_json(draw, header, ())
        return struct.pack("<Q", len(text)) + text + numbers, said
    tensors = json.loads(header)
    names = [name for name in tensors if name != "__metadata__"]
    name = draw.choice(names)
    part = draw.choice(("dtype", "shape", "data_offsets", "name", "remove", "copy"))
    if kind == "metadata":
        tensors["__metadata__"] = draw.choice(
            ({}, {"format": "tf"}, {"format": "\x1b[31m"}, {"format": 7}, [], None, {"a": {"b": "c"}})
        )
        said = f"__metadata__ = {_brief(json.dumps(tensors['__metadata__']))}"
    elif part == "dtype":
        tensors[name]["dtype"] = draw.choice(
            ("F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "XX", 7, None)
        )
        said = f"{name} has dtype {tensors[name]['dtype']}"
        if draw.random() < 0.5:  # the bytes fit again
            tensors[name]["shape"] = [tensors[name]["data_offsets"][1] - tensors[name]["data_offsets"][0]]
    elif part == "shape":
        shape = tensors[name]["shape"]
        tensors[name]["shape"] = draw.choice(
            ([], [0], [*shape, 1], shape[::-1], [2**32, 2**32], [-1], [10**8, *shape[1:]], [1] * 5000, ["a"], None)
        )
        said = f"{name} has shape {_brief(json.dumps(tensors[name]['shape']))}"
    elif part == "data_offsets":
        begin, end = tensors[name]["data_offsets"]
        wrong = (
            [end, begin],
            [begin, end + 4],
            [begin + 4, end],
            [0, end],
            [begin, 2**63],
            [-4, end],
            [begin],
            ["a", "b"],
            [0, 0],
        )
        tensors[name]["data_offsets"] = draw.choice(wrong)
        said = f"{name} lies at {tensors[name]['data_offsets']}"
    elif part == "name":
        new = draw.choice((*ESCAPES, *PATHS, "", "x" * 5000, f"{name}.0", f"module.{name}", names[0]))
        tensors[new] = tensors.pop(name)
        said = f"{name} is named {_brief(json.dumps(new))}"
    elif part == "remove":
        del tensors[name]
        said = f"{name} is left out"
    else:
        tensors[f"copy.{name}"] = tensors[name]
        said = f"{name} is there under a second name, too"
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + numbers, said


def damage_parquet(draw: Random, content: bytes) -> Damage:
    """Changes the types, the values or the metadata of a parquet file, or the bytes of its footer."""
    kind = draw.choice(
        ("footer", "footer", "length", "type", "type", "value", "columns", "metadata", "metadata", "pages")
    )
    if kind in ("footer", "length"):
        size = struct.unpack("<I", content[-8:-4])[0]
        if kind == "length":
            length = draw.choice((0, 1, size - 1, size + 1, 2**31, 2**32 - 1, len(content)))
            return content[:-8] + struct.pack("<I", length) + content[-4:], f"the footer's length is {length}"
        footer = bytearray(content[-8 - size : -8])
        several = draw.choice((1, 1, 2, 5))
        for _ in range(several):
            footer[draw.randrange(size)] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        return content[: -8 - size] + bytes(footer) + content[-8:], f"{several} bytes of the footer"
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    if kind == "pages":
        place = draw.randrange(4, max(5, len(content) // 2))
        return content[:place] + draw.randbytes(4) + content[place + 4 :], f"4 bytes of the pages, from {place}"
    name, rows = draw.choice(table.column_names), table.num_rows
    if kind == "columns":
        part = draw.choice(("remove", "double", "rename", "empty"))
        if part == "remove":
            table = table.drop_columns([name])
        elif part == "double":
            table = table.append_column(name, table[name])
        elif part == "rename":
            table = table.rename_columns(
                [draw.choice((*ESCAPES, "", "x" * 5000)) if each == name else each for each in table.column_names]
            )
        else:
            table = table.slice(0, 0)
        said = f"{part} the column {name}"
    elif kind == "metadata":
        wrong: tuple[Any, ...] = (
            "",
            "{",
            "null",
            "[]",
            '{"info": null}',
            '{"info": []}',
            '{"info": {"features": null}}',
            "[" * DEEP,
            b"\xff\xfe",
        )
        feature = draw.choice(
            (
                {
                    "_type": "ClassLabel",
                    "names": draw.choice((None, 7, [], ["A"], [1, 2], ["\x1b[31m", "B"], ["A", "A"], {"0": "A"})),
                },
                7,
                None,
                [],
                {"_type": []},
                {"_type": "Value", "dtype": "no_such"},
            )
        )
        raw = draw.choice(
            (*wrong, *[json.dumps({"info": {"features": {"label": feature, "text": draw.choice((7, None, {}))}}})] * 9)
        )
        table = table.replace_schema_metadata({"huggingface": raw})
        if draw.random() < 0.4:
            table = table.set_column(
                table.column_names.index("label"),
                "label",
                pyarrow.array([draw.choice((0, 1, 5, -1)) for _ in range(rows)]),
            )
        said = f"metadata {_brief(raw if isinstance(raw, str) else repr(raw))}"
    else:
        said, values = _column(draw, rows) if kind == "type" else _cells(draw, table[name].to_pylist())
        table = table.set_column(table.column_names.index(name), name, values)
        said = f"{name}: {said}"
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, compression=draw.choice(("snappy", "none", "gzip", "zstd")))
    return out.getvalue(), said


def _column(draw: Random, rows: int) -> tuple[str, pyarrow.Array]:
    """Returns a column of another type, with its name."""
    makers: dict[str, Callable[[], pyarrow.Array]] = {
        "int64": lambda: pyarrow.array([2**62] * rows),
        "uint64": lambda: pyarrow.array([2**64 - 1] * rows, pyarrow.uint64()),
        "double": lambda: pyarrow.array([draw.choice((float("nan"), float("inf"), 1.5)) for _ in range(rows)]),
        "bool": lambda: pyarrow.array([place % 2 == 0 for place in range(rows)]),
        "null": lambda: pyarrow.nulls(rows),
        "binary": lambda: pyarrow.array([b"\xff\xfe\x00"] * rows),
        "list": lambda: pyarrow.array([["a", None]] * rows),
        "struct": lambda: pyarrow.array([{"a": {"b": 1}}] * rows),
        "map": lambda: pyarrow.array([[("a", 1)]] * rows, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "timestamp": lambda: pyarrow.array([2**62] * rows, pyarrow.timestamp("us")),
        "timestamp of a zone": lambda: pyarrow.array([0] * rows, pyarrow.timestamp("ns", "No/Such")),
        "duration": lambda: pyarrow.array([2**62] * rows, pyarrow.duration("s")),
        "date": lambda: pyarrow.array([2**31 - 1] * rows, pyarrow.date32()),
        "time": lambda: pyarrow.array([1] * rows, pyarrow.time64("ns")),
        "decimal": lambda: pyarrow.array([10**30] * rows, pyarrow.decimal128(38, 0)),
        "dictionary": lambda: pyarrow.array(["A", "B"] * (rows // 2) + ["A"] * (rows % 2)).dictionary_encode(),
        "large string": lambda: pyarrow.array(["A"] * rows, pyarrow.large_string()),
    }
    kind = draw.choice(tuple(makers))
    return kind, makers[kind]()


def _cells(draw: Random, values: list[Any]) -> tuple[str, pyarrow.Array]:
    changed = [None if value is None else str(value) for value in values]
    said = []
    for _ in range(draw.choice((1, 1, 3))):
        place = draw.randrange(len(changed))
        changed[place] = draw.choice((*ESCAPES, *PATHS, *NUMBERS, "", None, "x" * 1_000_000, HUGE))
        said.append(f"row {place} = {_brief(json.dumps(changed[place]))}")
    return "; ".join(said), pyarrow.array(changed)


def damage_gzip(draw: Random, content: bytes) -> Damage:
    """Damages the bytes of a gzip file: its header, its stream, its checksum, or what follows."""
    kind = draw.choice(("header", "checksum", "twice", "bytes", "bytes", "plain"))
    if kind == "header":
        place = draw.randrange(10)
        return content[:place] + draw.randbytes(1) + content[place + 1 :], f"byte {place} of the header"
    if kind == "checksum":
        return content[:-8] + draw.randbytes(8), "the checksum"
    if kind == "twice":
        return content + draw.choice(
            (content, gzip.compress(b"\xff", mtime=0), b"\x00" * 100, b"more")
        ), "more after the end"
    return (gzip.decompress(content), "not compressed") if kind == "plain" else damage_bytes(draw, content)


def damage_folder(draw: Random, folder: Path, outside: Path) -> str:
    """Replaces a file or folder below a folder by something else, or adds something; returns what was done.

    Args:
        draw: the random generator.
        folder: what is damaged.
        outside: a folder with `secret.txt`, to which links lead.
    """
    found = sorted(path for path in folder.rglob("*"))
    path = draw.choice(found)
    kind = draw.choice(
        ("link", "link", "fifo", "remove", "folder", "socket", "zero", "loop", "name", "deep", "mode", "file")
    )
    name = path.relative_to(folder)
    if kind == "name":
        new = draw.choice((*(text for text in ESCAPES if "\x00" not in text), "-rf", "a" * 255))
        os.makedirs(path.parent / new)
        return f"{name.parent} holds a folder {_brief(json.dumps(new))}"
    if kind == "deep":
        inner = (path if path.is_dir() else path.parent) / "/".join(["d"] * draw.choice((50, 900)))
        inner.mkdir(parents=True)
        return f"{name} holds folders in folders"
    if kind == "mode" and path.is_file():
        path.chmod(draw.choice((0o000, 0o4777, 0o111)))
        return f"{name} has another mode"
    _remove(path)
    if kind == "link":
        target = draw.choice(
            (
                outside,
                outside / "secret.txt",
                Path("../outside"),
                folder,
                Path("."),
                Path("/etc/passwd"),
                Path("/nowhere"),
            )
        )
        path.symlink_to(target)
        return f"{name} is a link to {target.name or target}"
    if kind == "loop":
        path.symlink_to(path.name)
        return f"{name} is a link to itself"
    if kind in ("fifo", "socket"):
        os.mkfifo(path) if kind == "fifo" else os.mknod(path, 0o140644)
        return f"{name} is a {kind}"
    if kind == "zero":
        path.symlink_to("/dev/zero")
        return f"{name} is a link to /dev/zero"
    if kind == "folder":
        path.mkdir()
        return f"{name} is an empty folder"
    if kind == "file":
        path.write_bytes(draw.randbytes(10))
        return f"{name} is a file of ten bytes"
    return f"{name} is removed"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink()
