"""The benchmark of a user's own script runs, tiny, and says what it promises to say."""

from benchmark_scripts import quick


def test_a_script_is_measured_alone_and_served(tmp_path, capsys):
    alone, served = quick("own_script", tmp_path)["rows"]
    assert [(row["task"], row["arm"]) for row in (alone, served)] == [
        ("perceptron", "alone"),
        ("perceptron", "2 workers"),
    ]
    assert alone["of alone"] == 1.0
    assert served["of alone"] == served["samples/s"] / alone["samples/s"] > 0.0
    assert [len(row["readings"]) for row in (alone, served)] == [1, 1]
    assert capsys.readouterr().out.count("of alone") == 2
