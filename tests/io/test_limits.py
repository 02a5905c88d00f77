"""Small files that claim or unfold to much are refused at once."""

import pytest

from soilcarbon.io.files import UserError, read_yaml, write_text

TEN = ", ".join(["*a%d"] * 10)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{k}: &a{k} {{<<: [{TEN % ((k - 1,) * 10)}]}}\n" for k in range(1, 10)), "merge"),
        ("a0: &a0 [1, 2]\n" + "".join(f"a{k}: &a{k} [{TEN % ((k - 1,) * 10)}]\n" for k in range(1, 10)), "unfolds to more"),
        ("a: &a [*a]\n", "part of itself"),
        ("[" * 50_000, "not readable as YAML"),
        ("{a: " * 50_000, "not readable as YAML"),
        ("a: !!int ''\n", "not readable as YAML"),
        ("a: !!bool what\n", "not readable as YAML"),
        ("a: 2020-13-45\n", "not readable as YAML"),
        (f"a: {'9' * 5000}\n", "not readable as YAML"),
        ("? [a]\n: 1\n", "not readable as YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("#" * 2**19 + "#\n", "512 KiB"),
    ],
    ids=range(12),
)
def test_yaml_unfolds_to_no_more_than_its_limit(tmp_path, content, words):
    write_text(tmp_path / "x.yaml", content)
    with pytest.raises(UserError, match=words):
        read_yaml(tmp_path / "x.yaml")


def test_merge_keys_and_aliases_are_read(tmp_path):
    write_text(tmp_path / "x.yaml", "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(tmp_path / "x.yaml")["b"] == {"x": 1, "y": 3}
