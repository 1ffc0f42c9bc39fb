"""Csv files: every cell is what is written, and the layout is found or told."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

from trbert.data.readers import Contents, Format
from trbert.data.text_files.csv_tables import read_csv
from trbert.errors import InputError
from trbert.limits import MAX_BYTES, Room
from trbert.tasks.rows import Columns

COLUMNS = Columns(("text",), "label")
PAIR = Columns(("text", "other"), "label")


def read(folder: Path, content: str, name: str = "a.csv", columns: Columns = COLUMNS, **format: Any) -> Contents:
    (folder / name).write_text(content, newline="")
    return read_csv(folder / name, columns, Format(**format), Room(MAX_BYTES))


def refusal(folder: Path, content: str, name: str = "a.csv", columns: Columns = COLUMNS, **format: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content, name, columns, **format)
    return str(caught.value)


def rows(contents: Contents) -> list[tuple[Any, ...]]:
    return list(zip(contents.values["text"], contents.values["label"], strict=True))


def written(texts: Sequence[str], separator: str = ",", header: str = "text,label") -> str:
    """Returns a file with one row a text. Labels are A and B in turn."""
    lines = [header.replace(",", separator), *(f"{text}{separator}{'AB'[row % 2]}" for row, text in enumerate(texts))]
    return "".join(f"{line}\n" for line in lines)


def expected(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(text, "AB"[row % 2]) for row, text in enumerate(texts)]


# What is written.


@pytest.mark.parametrize(
    "labels",
    [
        ["01", "02", "011"],
        ["0123", "123"],
        ["12345678901234567890123", "12345678901234567890124"],
        ["1E2", "100", "1e2"],
        ["2024-01-01", "2024-01-02"],
        ["NA", "null", "nan", "NaN", "None", ""],
        ["true", "1", "1.0", "0x10", "10:30", "inf"],
    ],
)
def test_labels_and_texts_are_what_is_written(tmp_path: Path, labels: list[str]) -> None:
    found = read(tmp_path, "text,label\n" + "".join(f"{label},{label}\n" for label in labels if label))
    assert rows(found) == [(label, label) for label in labels if label]
    quoted = read(tmp_path, "id,text,label\n" + "".join(f'7,"{label}","{label}"\n' for label in labels))
    assert rows(quoted) == [(label, label) for label in labels]


def test_an_empty_cell_is_an_empty_string(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "text,label\nx,\n,A\n")) == [("x", ""), ("", "A")]


def test_the_column_in_train_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = read(tmp_path, "text,label,in_train\nx,A,True\ny,B,1\nz,B,\n")
    assert found.values["in_train"] == ["True", "1", ""]
    assert found.others == ()


FRAME = pandas.DataFrame(
    {
        "text": [
            "plain",
            "a, b; c\td|e",
            'he said "hi"',
            "two\nlines",
            "two\r\nlines",
            '"',
            '""',
            "ü\u2028x",
            " x ",
            "",
        ],
        "label": ["A", "B"] * 5,
    }
)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_pandas_writes_comes_back(tmp_path: Path, separator: str, quoting: Any, end: str) -> None:
    content = FRAME.to_csv(sep=separator, quoting=quoting, lineterminator=end)
    found = read(tmp_path, content)
    assert found.values == {"text": FRAME.text.tolist(), "label": FRAME.label.tolist()}
    assert found.others == ()  # the index that pandas writes has no name
    word = "tabs" if separator == "\t" else repr(separator)
    assert found.notes == (() if separator == "," else (f"the columns are separated by {word}",))


def test_quotation_marks_that_a_backslash_marks_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, FRAME.to_csv(index=False, doublequote=False, escapechar="\\"))
    assert found.values["text"] == FRAME.text.tolist()
    assert found.notes == ('a quotation mark within a cell is written \\"',)


def test_a_backslash_elsewhere_is_a_character(tmp_path: Path) -> None:
    assert rows(read(tmp_path, 'text,label\n"C:\\new, \\n",A\n'))[0][0] == "C:\\new, \\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.TSV", "a.tsv.gz"])
def test_a_tsv_is_separated_by_tabs_without_a_note(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, written(["x, y", "z"], "\t"), name)
    assert rows(found) == expected(["x, y", "z"])
    assert found.notes == ()
    assert read(tmp_path, written(["x", "z"]), name).notes == ("the columns are separated by ','",)


def test_quotation_marks_within_cells_that_none_opens_are_characters(tmp_path: Path) -> None:
    texts = ['say "hi" twice', '5" disk', 'an end"']
    assert rows(read(tmp_path, written(texts))) == expected(texts)


def test_a_long_cell_is_read_in_a_file_that_is_read_row_by_row(tmp_path: Path) -> None:
    texts = ['5" disk', "word " * 60_000]
    assert rows(read(tmp_path, written(texts))) == expected(texts)
    assert csv.field_size_limit() == 131_072  # Python's own


def test_blank_lines_before_and_between_rows_are_left_out(tmp_path: Path) -> None:
    content = "\n\r\ntext,label\n\nx,A\n\n\ny,B\n\n"
    assert rows(read(tmp_path, content)) == [("x", "A"), ("y", "B")]
    assert rows(read(tmp_path, content.replace("x,", '5" x,'))) == [('5" x', "A"), ("y", "B")]


def test_old_line_ends_are_read(tmp_path: Path) -> None:
    assert rows(read(tmp_path, written(["x", "y"]).replace("\n", "\r"))) == expected(["x", "y"])


def test_only_inputs_are_read_where_there_is_no_target(tmp_path: Path) -> None:
    found = read(tmp_path, "text\nx\ny\n", columns=Columns(("text",), ""))
    assert found.values == {"text": ["x", "y"]}


# Quotation marks in files separated by tabs.


def test_a_lone_quotation_mark_in_a_tab_separated_file_is_a_character(tmp_path: Path) -> None:
    texts = ['"begins', "x", 'ends"', '"a" b', "y", '"z']
    found = read(tmp_path, written(texts, "\t"), "a.tsv")
    assert rows(found) == expected(texts)
    assert found.notes == ("quotation marks are read as they stand, because some stand alone",)


def test_two_lone_quotation_marks_swallow_no_rows_of_a_tab_separated_file(tmp_path: Path) -> None:
    texts = ['"begins', "x", "y", 'ends"', "z"]
    found = read(tmp_path, written(texts, "\t"), "a.tsv")
    assert rows(found) == expected(texts)
    assert found.notes == ("quotation marks are read as they stand, because every line is a row of its own",)


def test_quoted_cells_of_several_lines_are_read_in_a_tab_separated_file(tmp_path: Path) -> None:
    assert rows(read(tmp_path, 'text\tlabel\n"x\ny"\tA\n"z"\tB\n', "a.tsv")) == [("x\ny", "A"), ("z", "B")]


# Separators and headers.


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv"])
@pytest.mark.parametrize("separator", [";", "|"])
def test_the_separator_is_found_in_the_header_and_said(tmp_path: Path, name: str, separator: str) -> None:
    found = read(tmp_path, written(["x, y", "z"], separator), name)
    assert rows(found) == expected(["x, y", "z"])
    assert found.notes == (f"the columns are separated by {separator!r}",)


@pytest.mark.parametrize(("separator", "named"), [("#", "#"), ("§", "§"), (" ", " "), ("\t", "tab"), ("\t", "\\t")])
def test_a_separator_can_be_named(tmp_path: Path, separator: str, named: str) -> None:
    found = read(tmp_path, written(["x", "z"], separator), separator=named)
    assert rows(found) == expected(["x", "z"])
    assert found.notes == ()


@pytest.mark.parametrize("named", ["||", "", '"', "\n", "comma"])
def test_a_separator_is_one_character(tmp_path: Path, named: str) -> None:
    assert refusal(tmp_path, written(["x"]), separator=named) == (
        f"--separator must be one character other than a quotation mark, or the word tab, and is {named!r}: "
        "write for example ';' or tab"
    )


def test_a_column_that_is_missing_is_told_with_the_header_and_the_separators(tmp_path: Path) -> None:
    assert refusal(tmp_path, "body;topic\nx;A\n") == (
        "a.csv must have the column 'text', and has 'body', 'topic': set --text-column to one of them, or name the "
        "separator with --separator (',', ';', tabs, '|' were tried)"
    )
    assert refusal(tmp_path, "text,topic\nx,A\n", separator=",") == (
        "a.csv must have the column 'label', and has 'text', 'topic': set --label-column to one of them"
    )


def test_a_column_in_other_letters_is_named(tmp_path: Path) -> None:
    assert "has 'TEXT', 'Label' (did you mean 'TEXT'?): set --text-column" in refusal(tmp_path, "TEXT,Label\nx,A\n")


def test_the_line_in_which_excel_names_the_separator_is_obeyed(tmp_path: Path) -> None:
    found = read(tmp_path, "sep=#\r\n" + written(["x", "y"], "#").replace("\n", "\r\n"))
    assert rows(found) == expected(["x", "y"])


def test_a_needed_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "text,text,label\nx,y,A\n") == (
        "a.csv must have one column 'text', and has 2 of that name among its 3 columns: give them different names"
    )
    assert rows(read(tmp_path, "text,id,id,label\nx,1,2,A\n")) == [("x", "A")]


def test_blanks_around_the_names_are_left_out_of_all_cells(tmp_path: Path) -> None:
    found = read(tmp_path, ' label , text\nA, "x, y"\nB , z \n')
    assert rows(found) == [("x, y", "A"), ("z", "B")]
    assert found.notes == ("blanks around cells are left out, as the header has blanks around its names",)


def test_blanks_stay_where_the_names_have_none(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "text,label\n x , A\n")) == [(" x ", " A")]


def test_without_a_header_the_columns_are_numbered(tmp_path: Path) -> None:
    columns = Columns(("2",), "1")
    found = read(tmp_path, 'A;"x, y";7\nB;z, w;8\n', columns=columns, header=False)
    assert found.values == {"2": ["x, y", "z, w"], "1": ["A", "B"]}
    assert found.others == ("3",)
    assert found.notes == ("the columns are separated by ';'",)
    assert refusal(tmp_path, "x,A\n", header=False) == (
        "a.csv must have the column 'text', and has '1', '2': set --text-column to one of them, as --no-header "
        "numbers the columns"
    )


def test_a_first_row_that_is_data_is_told_with_the_options_that_read_it(tmp_path: Path) -> None:
    told = refusal(tmp_path, "A,this is a longer text 0,7\nB,this is a text 1,7\nA,this is a text 2,7\n")
    assert told.endswith(
        "; if the first row is data and names no columns, set --no-header --text-column 2 --label-column 3"
    ) or told.endswith("set --no-header --text-column 2 --label-column 1")
    told = refusal(tmp_path, "x y,z w,A\na bc,d ef,B\nq,r,A\n", columns=PAIR)
    assert told.endswith("set --no-header --text-column 1,2 --label-column 3")
    assert "--no-header" not in refusal(tmp_path, "body,topic\nx y,A\n")


def test_a_label_that_is_the_name_of_its_column_is_noted(tmp_path: Path) -> None:
    assert read(tmp_path, "text,label\nx,A\ny,label\nz,B\n").notes == (
        "1 rows, the first of them row 1, have the label 'label', which is the column's name: if the first row is "
        "data, set --no-header; if the header stands there again, remove it",
    )


@pytest.mark.parametrize("first", [0, 1])
def test_the_row_names_that_r_writes_are_a_column_without_a_name(tmp_path: Path, first: int) -> None:
    lines = [f'"{first + row}","text {row}","{"AB"[row % 2]}"\n' for row in range(4)]
    found = read(tmp_path, '"text","label"\n' + "".join(lines))
    assert rows(found) == expected([f"text {row}" for row in range(4)])
    assert found.notes == ("the first column has no name and holds the numbers of the rows",)
    assert rows(read(tmp_path, '"","text","label"\n' + "".join(lines))) == rows(found)


def test_columns_that_are_not_wanted_are_named(tmp_path: Path) -> None:
    assert read(tmp_path, "id,text,label,title,\n1,x,A,t,\n").others == ("id", "title")


# Rows that do not fit.


def test_a_row_of_too_many_cells_is_told_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'text,label\n"x\ny",A\n\nx, y,B\n') == (
        "row 1 of a.csv (line 5) must have 2 cells separated by ',', as the header has, and has 3 in the str "
        "'x, y,B': put a cell that holds the separator in quotation marks, or set --separator"
    )


def test_a_row_of_too_few_cells_is_told_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "x\tA\ny\n", "a.tsv", Columns(("1",), "2"), header=False) == (
        "row 1 of a.tsv (line 2) must have 2 cells separated by tabs, as the first row has, and has 1 in the str "
        "'y': write the cells that are missing, or set --separator"
    )


def test_commas_in_every_text_are_not_taken_for_row_names(tmp_path: Path) -> None:
    assert refusal(tmp_path, "text,label\nx, y,A\nz, w,B\n").startswith("row 0 of a.csv (line 2) must have 2 cells")


@pytest.mark.parametrize(
    ("content", "row", "line", "seen"),
    [
        ('text,label\nx,A\n"a 5" disk,A\ny,B\n', 1, 3, 3),
        ('text,label\nx,A\n"open,A\ny,B\nz,A\n', 1, 3, 5),
        ('text,label\n"open,A\ny,B\n"z",A\n', 0, 2, 4),
        ('text,label\nx,A\ny,"B\n', 1, 3, 3),
        ('text,label\n5" x,A\n",y"z,B\n6",A\n', 1, 3, 3),
    ],
)
def test_a_quotation_mark_that_is_not_closed_is_told_with_its_line(
    tmp_path: Path, content: str, row: int, line: int, seen: int
) -> None:
    assert refusal(tmp_path, content) == (
        f"row {row} of a.csv (line {line}) must close a quotation mark that begins a cell before the next separator "
        f"or the end of the row, and does not by line {seen}: remove the mark, or put the whole cell in quotation "
        "marks and write each mark within it twice"
    )


def test_rows_within_a_quoted_cell_are_noted(tmp_path: Path) -> None:
    found = read(tmp_path, 'text,label\nw,A\n"x,A\ny,B\nz",A\nv,B\n')
    assert found.notes == (
        "1 texts, the first of them in row 1, hold lines that look like rows: check whether a quotation mark is not "
        "closed there",
    )
    assert read(tmp_path, 'text,label\nw,A\n"x,\ny, and\nz",A\nv,B\n').notes == ()


@pytest.mark.parametrize("content", ["", " \n", "text,label", "text,label\n\n", "sep=,\ntext,label\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    assert (
        refusal(tmp_path, content) == "a.csv must have at least one row, and is empty: check that it was written whole"
    )


def test_a_txt_file_is_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "spam.txt").write_text('ham\tI said "no\nspam\tYou have won\n' * 10)
    found = read_csv(tmp_path / "spam.txt", Columns(("2",), "1"), Format(header=False), Room(MAX_BYTES))
    assert found.values == {"2": ['I said "no', "You have won"] * 10, "1": ["ham", "spam"] * 10}


# What files from elsewhere hold beside their rows.


def test_a_header_that_stands_again_within_a_file_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "text,label\nx,A\n\ufefftext,label\ny,B\ntext,label\ntext,A\n")
    assert rows(found) == [("x", "A"), ("y", "B"), ("text", "A")]
    assert found.notes == ("2 rows name the columns again and are left out, the first of them row 1",)


def test_a_separator_at_the_end_of_every_row_is_no_cell(tmp_path: Path) -> None:
    found = read(tmp_path, "text,label\nx,A,\ny,B,\n")
    assert rows(found) == [("x", "A"), ("y", "B")]
    assert found.notes == ("every row ends with ',', which the header does not",)


def test_the_column_of_classes_is_told_from_constants_and_numbers_of_rows(tmp_path: Path) -> None:
    texts = [f"one two three four five {row}" for row in range(9)]
    told = refusal(tmp_path, "".join(f"gj04\t{row % 2}\t{'*' * (row % 2)}\t{text}\n" for row, text in enumerate(texts)))
    assert told.endswith("set --no-header --text-column 4 --label-column 2")
    sorted_by_class = "".join(f'"0","{400 + row}","NO_QUERY","{text}"\n' for row, text in enumerate(texts))
    assert refusal(tmp_path, sorted_by_class).endswith("set --no-header --text-column 4 --label-column 1")


def test_a_label_and_a_text_with_a_blank_between_them_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    lines = [f"{'LOC:city' if row % 2 else 'NUM:date'} What is it {row} ?\n" for row in range(8)]
    assert refusal(tmp_path, "".join(lines), "a.txt").endswith(
        "; if each line is a label, a blank and a text, write a tab for the blank: sed 's/ /\\t/' a.txt > NEW.txt"
    )
    assert "sed" not in refusal(tmp_path, "".join(f"{row} no label\n" for row in range(8)), "a.txt")


def test_texts_that_are_printed_bytes_are_noted(tmp_path: Path) -> None:
    (note,) = read(tmp_path, "text,label\nb'x',A\nb'caf\\xc3',B\n").notes
    assert note.startswith("all texts of column 'text' are bytes as Python prints them (b'…'): decode them before")
    assert read(tmp_path, "text,label\nb'x',A\nb,B\n").notes == ()


def test_quoted_cells_may_stand_after_a_separator_and_a_blank(tmp_path: Path) -> None:
    found = read(tmp_path, '"text", "label"\n"x, y", "A"\n"z", "B"\n')
    assert rows(found) == [("x, y", "A"), ("z", "B")]
    assert found.notes == ("blanks around cells are left out, as the header has blanks around its names",)
