"""The private library: forty-odd small functions under names that nobody would guess."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Draw = Callable[[random.Random], Any]
Level = Literal[1, 2, 3]


@dataclass(frozen=True)
class Function:
    """One function of the library.

    Attributes:
        name: As its callers know it; it stands in no question.
        level: Of the body: 1, one operation; 2, a call or a slice; 3, a loop or a condition.
        ways: Three ways to say what it returns; the last is kept for held-out questions.
        value: What it returns.
        draws: One for each argument.
        keywords: The arguments' names as callers use them; () where they are given by position.
        rejects: What callers expect of bad input: (the input in words, the arguments, the
            exception's name); None where there is none.
    """

    name: str
    level: Level
    ways: tuple[str, str, str]
    value: Callable[..., Any]
    draws: tuple[Draw, ...]
    keywords: tuple[str, ...] = ()
    rejects: tuple[str, tuple[Any, ...], str] | None = None


def number(r: random.Random) -> int:
    return r.randint(2, 60)


def digit(r: random.Random) -> int:
    return r.randint(2, 6)


def few(r: random.Random) -> int:
    return r.randint(2, 4)


def signed(r: random.Random) -> int:
    return r.choice((-1, 1)) * r.randint(1, 60)


def word(r: random.Random) -> str:
    return "".join(r.choices(string.ascii_lowercase, k=r.randint(4, 8)))


def phrase(r: random.Random) -> str:
    return " ".join(word(r) for _ in range(r.randint(2, 4)))


def numbers(r: random.Random) -> list[int]:
    return [r.randint(-20, 40) for _ in range(r.randint(3, 6))]


def words(r: random.Random) -> list[str]:
    return [word(r) for _ in range(r.randint(2, 4))]


FUNCTIONS: tuple[Function, ...] = (
    # One operation
    Function("twice_of", 1, ("twice the number it is given", "its argument, a number, times two",
             "the double of a number"), lambda n: 2 * n, (number,)),
    Function("half_of", 1, ("half of the number it is given", "its argument, a number, divided by "
             "two", "a number split in two equal halves, one of them"), lambda n: n / 2, (number,)),
    Function("square_it", 1, ("the square of a number", "a number times itself",
             "the second power of its argument"), lambda n: n * n, (number,)),
    Function("up_one", 1, ("the number after the one it is given", "its argument, a number, plus "
             "one", "a number made larger by one"), lambda n: n + 1, (number,)),
    Function("down_one", 1, ("the number before the one it is given", "its argument, a number, "
             "minus one", "a number made smaller by one"), lambda n: n - 1, (number,)),
    Function("flip_sign", 1, ("a number with the opposite sign", "its argument, a number, negated",
             "minus the number it is given"), lambda n: -n, (signed,)),
    Function("sum_two", 1, ("the sum of two numbers", "its two arguments, numbers, added together",
             "what two numbers make together"), lambda a, b: a + b, (number, number),
             ("first", "second")),
    Function("less_by", 1, ("the difference of two numbers, the first minus the second",
             "its first argument, a number, minus its second", "a number made smaller by another"),
             lambda a, b: a - b, (number, number), ("start", "drop")),
    Function("times_two", 1, ("the product of two numbers", "its two arguments, numbers, "
             "multiplied", "one number times another"), lambda a, b: a * b, (number, digit),
             ("left", "right")),
    Function("last_digit", 1, ("the remainder of a number divided by ten", "the last decimal digit "
             "of a positive number", "a number modulo ten"), lambda n: n % 10, (number,)),
    Function("glue", 1, ("two texts, one after the other", "its two arguments, texts, joined "
             "together", "the concatenation of two texts"), lambda a, b: a + b, (word, word),
             ("head", "tail")),
    Function("stamp", 1, ("a text repeated a number of times", "its first argument, a text, as "
             "often as its second, a number, says", "many copies of a text in a row"),
             lambda t, n: t * n, (word, digit), ("ink", "copies")),
    Function("is_twin", 1, ("whether two values are equal", "True when its two arguments are "
             "equal, else False", "if two values are the same"), lambda a, b: a == b,
             (few, few), ("mine", "yours")),
    Function("over_ten", 1, ("whether a number is greater than ten", "True for a number above ten, "
             "else False", "if a number exceeds ten"), lambda n: n > 10, (number,)),
    # A call or a slice
    Function("big_one", 2, ("the larger of two numbers", "whichever of its two arguments, numbers, "
             "is greater", "the maximum of two numbers"), lambda a, b: max(a, b), (number, number),
             ("ours", "theirs")),
    Function("small_one", 2, ("the smaller of two numbers", "whichever of its two arguments, "
             "numbers, is less", "the minimum of two numbers"), lambda a, b: min(a, b),
             (number, number), ("here", "there")),
    Function("top_of", 2, ("the largest number of a list", "the greatest element of a list of "
             "numbers", "the maximum of a list"), lambda x: max(x), (numbers,),
             rejects=("an empty list", ([],), "LookupError")),
    Function("low_of", 2, ("the smallest number of a list", "the least element of a list of "
             "numbers", "the minimum of a list"), lambda x: min(x), (numbers,),
             rejects=("an empty list", ([],), "EOFError")),
    Function("sum_all", 2, ("the sum of a list of numbers", "all numbers of a list added together",
             "the total of a list"), lambda x: sum(x), (numbers,)),
    Function("len_of", 2, ("how many characters a text has", "the length of a text",
             "the number of characters of a text"), lambda t: len(t), (phrase,)),
    Function("flipped", 2, ("a text backwards", "the characters of a text in reverse order",
             "a text read from its end"), lambda t: t[::-1], (word,)),
    Function("shout", 2, ("a text in capital letters", "a text with every letter in upper case",
             "a text, all of it capitals"), lambda t: t.upper(), (phrase,)),
    Function("hush", 2, ("a text in small letters", "a text with every letter in lower case",
             "a text without capitals, each made small"), lambda t: t.lower(),
             (lambda r: word(r).title(),)),
    Function("first_in", 2, ("the first element of a list", "what a list begins with",
             "the element at the beginning of a list"), lambda x: x[0], (numbers,),
             rejects=("an empty list", ([],), "BufferError")),
    Function("last_in", 2, ("the last element of a list", "what a list ends with",
             "the element at the end of a list"), lambda x: x[-1], (numbers,),
             rejects=("an empty list", ([],), "ReferenceError")),
    Function("no_first", 2, ("a list without its first element", "all elements of a list but the "
             "first", "what follows the first element of a list"), lambda x: x[1:], (numbers,)),
    Function("no_last", 2, ("a list without its last element", "all elements of a list but the "
             "last", "what comes before the last element of a list"), lambda x: x[:-1],
             (numbers,)),
    Function("in_order", 2, ("a list sorted in ascending order", "the numbers of a list from the "
             "smallest to the largest", "a list, its smallest number first"),
             lambda x: sorted(x), (numbers,)),
    Function("far_from", 2, ("the absolute difference of two numbers", "how far apart two numbers "
             "are", "the distance between two numbers"), lambda a, b: abs(a - b),
             (number, number), ("near", "far")),
    Function("cut_words", 2, ("the words of a text as a list", "a text split at its blanks",
             "a list of the words that a text has"), lambda t: t.split(), (phrase,)),
    Function("one_line", 2, ("a list of words joined by blanks", "the words of a list as one text "
             "with a blank between them", "a list of words put together with single blanks"),
             lambda x: " ".join(x), (words,)),
    Function("led_by", 2, ("whether a text starts with another", "True when its first argument, a "
             "text, begins with its second", "if a text opens with another text"),
             lambda t, s: t.startswith(s), (word, lambda r: word(r)[:1]), ("whole", "piece")),
    Function("times_in", 2, ("how often a number occurs in a list", "the count of its second "
             "argument, a number, in its first, a list", "how many elements of a list equal a "
             "number"), lambda x, n: x.count(n), (lambda r: [digit(r) for _ in range(6)], digit),
             ("bag", "item")),
    # A loop or a condition
    Function("only_even", 3, ("the even numbers of a list", "a list of those numbers of a list "
             "that two divides", "a list without its odd numbers"),
             lambda x: [n for n in x if n % 2 == 0], (numbers,)),
    Function("only_odd", 3, ("the odd numbers of a list", "a list of those numbers of a list that "
             "two does not divide", "a list without its even numbers"),
             lambda x: [n for n in x if n % 2], (numbers,)),
    Function("above_zero", 3, ("the positive numbers of a list", "a list of those numbers of a "
             "list that are greater than zero", "a list without its numbers of zero and below"),
             lambda x: [n for n in x if n > 0], (numbers,)),
    Function("vowels_in", 3, ("how many vowels a text has", "the number of letters of a text that "
             "are a, e, i, o or u", "the count of vowels in a text"),
             lambda t: sum(c in "aeiou" for c in t), (phrase,)),
    Function("all_twice", 3, ("a list of numbers, each of them doubled", "every number of a list "
             "times two", "a list with the double of each number"), lambda x: [2 * n for n in x],
             (numbers,)),
    Function("each_len", 3, ("the lengths of the words of a list", "a list that tells how long "
             "each word of a list is", "how many characters each word of a list has, as a list"),
             lambda x: [len(w) for w in x], (words,)),
    Function("one_each", 3, ("a list without repeated numbers, in the order in which they first "
             "come", "the different numbers of a list, each once, in their order", "a list whose "
             "later duplicates are left out"), lambda x: list(dict.fromkeys(x)),
             (lambda r: [digit(r) for _ in range(6)],)),
    Function("mean_of", 3, ("the mean of a list of numbers", "the average of the numbers of a "
             "list", "the sum of a list divided by its length"), lambda x: sum(x) / len(x),
             (numbers,), rejects=("an empty list", ([],), "ArithmeticError")),
    Function("clip_to", 3, ("a number, or a limit where the number is greater", "its first "
             "argument, a number, but at most its second", "a number held below a limit"),
             lambda n, m: n if n < m else m, (number, number), ("value", "cap")),
    Function("share_of", 3, ("its first number divided by its second", "the quotient of two "
             "numbers", "one number divided by another"), lambda a, b: a / b, (number, digit),
             ("cake", "guests"), rejects=("a second number of zero", (4, 0), "OverflowError")),
    Function("root_of", 3, ("the square root of a number", "the number whose square is its "
             "argument", "a number to the power of one half"), lambda n: n**0.5,
             (lambda r: r.randint(1, 15) ** 2,),
             rejects=("a negative number", (-4,), "ArithmeticError")),
)  # fmt: skip
