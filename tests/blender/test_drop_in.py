"""Arguments and results of ``Blender``; its values are tested in tests/parity/test_blender.py."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blender_med import Blender, BlenderConfig
from blender_med.errors import ConfigError, DataError
from blender_med.rankers.base import RankedCandidates


class LongestWins:
    """Scores a candidate by its length; keeps the settings it was called with."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(source_maxlength=10, candidate_maxlength=20)
        self.settings: dict[str, Any] = {}
        self.sources: list[str] = []

    def rank(self, sources, candidates, *, advance=None, **settings) -> list[RankedCandidates]:
        self.settings, self.sources = settings, list(sources)
        scores = [tuple(float(len(text)) for text in group) for group in candidates]
        if advance is not None:
            advance(len(sources))
        return [
            RankedCandidates(own, tuple(1 + sum(s > t for s in own) for t in own)) for own in scores
        ]


@pytest.fixture
def blender() -> Blender:
    made = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    made._ranker = LongestWins()
    return made


def test_nothing_works_before_a_ranker_is_loaded() -> None:
    empty = Blender()
    for call in (
        lambda: empty.rank(["q"], [["a", "b"]]),
        lambda: empty.compare(["q"], ["a"], ["b"]),
        lambda: empty.get_best_of_n(["q"], [["a", "b"]]),
    ):
        with pytest.raises(ConfigError, match="loadranker"):
            call()


def test_instructions_stand_before_inputs(blender: Blender) -> None:
    blender.rank(["one", "two"], [["a"], ["b"]], ["Do: ", ""])
    assert blender.ranker.sources == ["Do: one", "two"]


def test_batch_size_is_a_number_of_the_longest_rows(blender: Blender) -> None:
    blender.rank(["q"], [["a"]], batch_size=5)
    assert blender.ranker.settings == {"batch_tokens": 5 * 30}


def test_shapes_and_types(blender: Blender) -> None:
    ranks = blender.rank(["q", "r"], [["a", "bbb"], ["cc", "c"]])
    assert ranks.tolist() == [[2, 1], [1, 2]] and ranks.dtype == np.int32
    scores = blender.rank(["q"], [["a", "bbb"]], return_scores=True)
    assert scores.tolist() == [[1, 3]] and scores.dtype == np.float32
    ragged = blender.rank(["q", "r"], [["a", "bbb"], ["cc"]])
    assert [row.tolist() for row in ragged] == [[2, 1], [1]]
    assert blender.rank([], []).shape == (0, 0)


def test_pointwise_rankers_compare_by_the_difference_of_their_scores(blender: Blender) -> None:
    for mode in ("[A,B]+[B,A]", "[A,B]", "[B,A]"):
        logits = blender.compare(
            ["q", "r"], ["aaa", "b"], ["a", "b"], return_logits=True, mode=mode
        )
        assert logits.tolist() == [2, 0]
    assert blender.compare(["q", "r"], ["aaa", "b"], ["a", "b"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("ref_mode", "reference"),
    [("longest", 4), ("shortest", 1), ("median_length", 3), ("first", 3), ("last", 2)],
)
def test_references_by_mode(blender: Blender, ref_mode: str, reference: int) -> None:
    candidates = [["aaa", "aaaa", "a", "aa"]]
    scores = blender.rank_with_ref(["q"], candidates, return_scores=True, ref_mode=ref_mode)
    assert scores.tolist() == [[size - reference for size in (3, 4, 1, 2)]]


def test_references_that_are_given_go_first(blender: Blender) -> None:
    scores = blender.rank_with_ref(
        ["q", "r"], [["a", "aa"], ["b"]], return_scores=True, ref_candidates=["xx", "xxx"]
    )
    assert [row.tolist() for row in scores] == [[-1, 0], [-2]]


def test_best_and_worst(blender: Blender) -> None:
    candidates = [["aa", "aaa", "a"], ["b"]]
    assert blender.get_best_of_n(["q", "r"], candidates) == ["aaa", "b"]
    assert blender.get_worst_of_n(["q", "r"], candidates) == ["a", "b"]
    ordered = [["aaa", "aa", "a"], ["b"]]
    assert blender.get_best_of_n(["q", "r"], candidates, return_all=True) == ordered
    assert blender.get_worst_of_n(["q", "r"], candidates, return_all=True) == [
        ["a", "aa", "aaa"],
        ["b"],
    ]
    assert candidates == [["aa", "aaa", "a"], ["b"]]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda b: b.compare(["q"], ["a"], ["b"], mode="A,B"), "mode"),
        (lambda b: b.rank_with_ref(["q"], [["a"]], ref_mode="long"), "longest"),
        (lambda b: b.get_best_of_n(["q"], [["a"]], pairrm_cmp_type="bubbles"), "bubble"),
        (lambda b: b.get_worst_of_n(["q"], [["a"]], pairrm_cmp_type="bubble_worst"), "bubble"),
        (lambda b: b.rank(["q"], [["a"]], batch_size=0), "batch_size"),
    ],
)
def test_a_wrong_choice_is_an_error(blender: Blender, call, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        call(blender)


@pytest.mark.parametrize(
    "call",
    [
        lambda b: b.rank(["q", "r"], [["a"]]),
        lambda b: b.rank(["q"], [[]]),
        lambda b: b.rank("q", [["a"]]),
        lambda b: b.rank(["q"], ["abc"]),
        lambda b: b.rank(["q"], [["a", None]]),
        lambda b: b.rank(["q"], [["a"]], instructions=["i", "j"]),
        lambda b: b.rank(["q"], [["a"]], instructions="i"),
        lambda b: b.compare(["q"], ["a", "b"], ["c"]),
        lambda b: b.compare(["q"], "a", "b"),
        lambda b: b.rank_with_ref(["q"], [["a"]], ref_candidates=["x", "y"]),
        lambda b: b.rank_with_ref(["q"], [["a"]], ref_candidates=[1]),
        lambda b: b.n_generate(None, None, ["q"], instructions=[]),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_an_error(blender: Blender, call) -> None:
    with pytest.raises(DataError):
        call(blender)


@pytest.mark.parametrize("name", ["source_maxlength", "strategy", "policy"])
def test_unknown_arguments_are_not_swallowed(blender: Blender, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        blender.rank(["q"], [["a"]], **{name: 1})
    with pytest.raises(TypeError):
        Blender().loadranker("somewhere", fp32=True)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rank", "inputs candidates instructions=None return_scores=False batch_size=8"
                 " disable_tqdm=False"),
        ("rank_with_ref", "inputs candidates instructions=None return_scores=False batch_size=8"
                          " ref_mode=longest ref_candidates=None"),
        ("compare", "inputs candidates_A candidates_B instructions=None batch_size=4"
                    " return_logits=False mode=[A,B]+[B,A]"),
        ("compare_conversations", "conversations_a conversations_b batch_size=4"
                                  " return_logits=False mode=[A,B]+[B,A]"),
        ("get_best_of_n", "inputs candidates instructions=None pairrm_cmp_type=bubble"
                          " return_all=False batch_size=8"),
        ("n_generate", "model model_tokenizer inputs instructions=None n=5"
                       " sampling_mode=top_p_sampling batch_size=4"),
        ("best_of_n_generate", "model model_tokenizer inputs instructions=None n=5"
                               " sampling_mode=top_p_sampling batch_size=4"
                               " pairrm_cmp_type=bubble return_all=False"),
        ("fuse", "inputs candidates instructions=None batch_size=4"),
        ("rank_and_fuse", "inputs candidates instructions=None return_scores=False batch_size=4"
                          " top_k=3"),
        ("loadranker", "ranker_path device=None"),
        ("loadfuser", "fuser_path device=None"),
    ],
)  # fmt: skip
def test_arguments_stand_where_llm_blender_has_them(name: str, arguments: str) -> None:
    parameters = list(inspect.signature(getattr(Blender, name)).parameters.values())[1:]
    own = [
        p.name if p.default is p.empty else f"{p.name}={p.default}"
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    wanted = arguments.split()
    assert own[: len(wanted)] == wanted
    # What is added has a default.
    assert all("=" in added for added in own[len(wanted) :])


def test_loading_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        Blender().loadranker(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ConfigError, match="not a ranker"):
        Blender().loadranker(tmp_path)
    with pytest.raises(ConfigError, match="device"):
        Blender().loadranker(tmp_path, device="gpu")


TURNS = [
    {"role": "USER", "content": "hello"},
    {"role": "ASSISTANT", "content": "hi"},
    {"role": "USER", "content": "bye"},
    {"role": "ASSISTANT", "content": "see you"},
]


def test_conversations_are_laid_out_as_in_llm_blender(blender: Blender) -> None:
    shorter = [*TURNS[:3], {"role": "ASSISTANT", "content": "see"}]
    logits = blender.compare_conversations([TURNS], [shorter], return_logits=True)
    assert logits.tolist() == [4]
    [source] = blender.ranker.sources
    assert source == (
        "Finish the following coversation in each i-th turn by filling in <Response i> with your "
        "response.USER: hello\nAssistant: <Response 1>\nUSER: bye\nAssistant: <Response 2>"
    )


def test_the_assistants_turns_are_numbered() -> None:
    from blender_med.blender.conversations import conversation_pairs

    [pair] = conversation_pairs([TURNS], [TURNS])
    assert pair.first == pair.second == "<Response 1>: hi\n<Response 2>: see you"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([TURNS], []),
        ([TURNS[:3]], [TURNS[:3]]),
        ([[]], [[]]),
        ([TURNS[:2]], [TURNS]),
        ([TURNS[2:]], [TURNS[:2]]),
        ([TURNS[::-1]], [TURNS[::-1]]),
        ([[{"role": "user", "content": "x"}, TURNS[1]]], [TURNS[:2]]),
        ([[{"role": "USER"}, TURNS[1]]], [TURNS[:2]]),
    ],
)
def test_conversations_that_do_not_match_are_an_error(blender: Blender, first, second) -> None:
    with pytest.raises(DataError):
        blender.compare_conversations(first, second)
