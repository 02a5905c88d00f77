"""Untrusted files are read without running them; files are written whole or not at all."""

import pytest
from conftest import full_disk

from soilcarbon.io.files import UserError, atomic_write, check_writable, locked, read_yaml, run, write_json, write_text, write_yaml
from soilcarbon.io.tables import read_table


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new, but")
        raise RuntimeError("no")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(UserError, match=r"x\.txt: not written .*untouched"), full_disk():
        write_text(path, "n" * 100_000)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        check_writable(tmp_path / "file" / "inner")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_read_whatever_their_separator_and_ids_stay_text(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeff" + separator.join(["profile_id", "lon"]) + "\n" + separator.join(["007", "1.5"]) + "\n", encoding="utf-8"
    )
    table = read_table(path, ["profile_id", "lon"])
    assert table["profile_id"].tolist() == ["007"]
    assert table["lon"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"profile_id,lon,lat,soc\na,10,50,12,5\n", "more fields than the header"),  # a decimal comma
        (b"# made by a laboratory\nprofile_id,lon,lat,soc\na,10,50,12\n", "its first line is a comment"),
        (b"#id,lon,lat,soc\n#text,deg,deg,g/kg\na,10,50,12\n", "its first line is a comment"),
        (b"/* data of\na survey */\nprofile_id,lon,lat,soc\na,10,50,12\n", "its first line is a comment"),
        (bytes(range(256)) * 10, "not readable as a table"),
        (b"profile_id,soc,soc \na,1,2\n", "two columns are named 'soc'"),
        (b"profile_id,lat\na,1\n", "no column 'lon'; it has 'profile_id', 'lat'"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "t.csv", ["lon"])


def test_a_separator_at_the_end_of_rows_shifts_no_column_and_na_is_an_id(tmp_path):
    (tmp_path / "t.csv").write_text("profile_id,lon,lat,soc\nNA,10,50,12,\n")
    assert read_table(tmp_path / "t.csv").iloc[0].tolist() == ["NA", 10, 50, 12]


def test_a_key_that_comes_twice_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("run: a\nrun: b\n")
    with pytest.raises(UserError, match="'run' is given twice"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["é 😀.tif", "not UTF-8 \udcff.tif"])
def test_yaml_keeps_the_order_and_any_name_of_a_file(tmp_path, name):
    value = {"b": [1.5, None, True, "1e5", "null"], "a": {name: name}}
    write_yaml(tmp_path / "c.yaml", value)
    found = read_yaml(tmp_path / "c.yaml")
    assert found == value and list(found) == ["b", "a"]


def test_a_locked_folder_is_refused_until_the_lock_ends(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(UserError, match="another run is at work here"), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_exit_status_is_2_for_users_mistakes_and_0_otherwise(capsys):
    def mistake():
        raise UserError("file: wrong")

    def no_file():
        open("/nowhere/at/all")  # noqa: PTH123, SIM115

    assert run(lambda: None) == 0
    assert run(mistake) == 2
    assert capsys.readouterr().err == "error: file: wrong\n"
    assert run(no_file) == 2
    assert "/nowhere/at/all: No such file" in capsys.readouterr().err


HEADER = "profile_id;lon;lat;remark;soc\n"
UMLAUT = HEADER + "P1;10;50;Höhe;12.5\nP2;11;51;;3\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_give_the_same_table(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes(UMLAUT.encode(encoding))
    table = read_table(tmp_path / "t.csv")
    assert (table["remark"].tolist()[0], table["soc"].tolist()) == ("Höhe", [12.5, 3.0])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_text_of_several_lines_is_one_field(tmp_path, separator):
    rows = [["id", "note", "soc"], ["1", '"wet, sandy\nand ""dark"""', "5"], ["2", "", "6"]]
    (tmp_path / "t.csv").write_text("\n".join(separator.join(row) for row in rows) + "\n")
    assert read_table(tmp_path / "t.csv", text=("id",)).values.tolist()[0] == ["1", 'wet, sandy\nand "dark"', 5]


def test_excels_first_line_names_the_separator(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\n" + UMLAUT, encoding="utf-8")
    assert read_table(tmp_path / "t.csv")["soc"].tolist() == [12.5, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04...", r"an Excel or OpenDocument file .*save its sheet as CSV"),
        (b"\xd0\xcf\x11\xe0...", "an Excel file"),
        (b"\x1f\x8b...", "compressed"),
        (b"PAR1...", "Parquet"),
        (HEADER.encode("utf-16-le"), "NUL bytes"),
        (b"id,\x81\xff\n1,2\n", "nor Windows-1252"),
        (b"", "it is empty"),
        ((HEADER + 'P1;1;2;"open;5\nP2;1;2;;5\nP3;1;2;";5\n').encode(), "1 quoted fields run .*swallow rows .2 line br"),
        ((HEADER + 'P1;1;2;"open;5\nP2;1;2;;5\n').encode(), "unexpected end of data .a quote is opened and not closed"),
        ((HEADER + "P1;1;2;wet\nand dark;5\nP2;1;2;;5\n").encode(), "lines 2 and 3 have too few .*a line break within a text"),
        ((HEADER + "P1;1;2;;5\nP2;1;2").encode(), "its last line has 3 of 5 fields and no end"),
    ],
)
def test_files_that_would_be_read_in_part_are_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "t.csv")
