# SPDX-License-Identifier: MIT
"""Small tokenizers in the layouts that published models use, and what the library encodes with them.

usage: python3 make_tokenizers.py OUT

Writes OUT/<layout>/tokenizer.json, trained by Hugging Face's tokenizers on generated text, and
OUT/<layout>/cases.json: texts with their ids, some also with what the post-processor adds. Needs tokenizers.
"""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SYLLABLES = {
    "latin": ["ka", "lo", "mi", "ter", "an", "sch", "ou", "ing", "é", "ß", "ñ", "the", "re", "th", "tion", "ł"],
    "cyrillic": ["при", "вет", "мир", "съ", "ешь", "ещё", "мяг", "ких"],
    "greek": ["λό", "γος", "και", "μέ", "τρον"],
    "devanagari": ["न", "म", "स्ते", "दु", "नि", "या"],
    "arabic": ["مر", "حب", "ا", "عا", "لم"],
    "thai": ["สวัส", "ดี", "ชาว", "โลก"],
    "hangul": ["안녕", "하세", "요", "세계"],
    "han": ["今天", "天气", "很好", "我们", "去", "公园", "散步"],
    "kana": ["こん", "にち", "は", "カタ", "カナ", "ー"],
}


def corpus():
    chance = random.Random(7)
    lines = []
    for _ in range(6000):
        script = chance.choice(["latin"] * 5 + list(SYLLABLES))
        join = "" if script in ("han", "kana", "thai") else " "
        words = [
            "".join(chance.choice(SYLLABLES[script]) for _ in range(chance.randint(1, 4)))
            for _ in range(chance.randint(1, 12))
        ]
        if chance.random() < 0.3:
            words.append(str(chance.randint(0, 10 ** chance.randint(1, 7))))
        if chance.random() < 0.2:
            words[0] = words[0].capitalize()
        ending = chance.choice([".", "!", "...", "", "'s", "'ll", " — ", ");\n", "\r\n", "  \n", "\n\n\t"])
        lines.append(join.join(words) + ending)
        if chance.random() < 0.1:
            lines.append("    if (x[i] == 0) { return {}; }  // " + chance.choice(["😀", "👩‍👩‍👧", "½", "€", "→"]))
    return lines


def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def plain(content, **flags):
    return AddedToken(content, special=False, **flags)


def trained(size, first, splits, **model):
    """A model whose vocabulary begins with `first`, as published files have it."""
    words = Tokenizer(models.BPE(**model))
    words.pre_tokenizer = splits
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(corpus(), trainer)
    words.decoder = decoders.ByteLevel()
    return words


def byte_level(space, regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex)


def split(pattern, behaviour="isolated", invert=False):
    return pre_tokenizers.Split(pattern, behaviour, invert)


def deepseek():
    parts = [split(Regex(pattern)) for pattern in DEEPSEEK]
    begin, end, pad = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
    words = trained(
        1600, [special(name) for name in (begin, end, pad)], pre_tokenizers.Sequence(parts + [byte_level(False, False)])
    )
    words.normalizer = normalizers.Sequence([])
    words.add_tokens([special(f"<｜place▁holder▁no▁{i}｜>") for i in range(12)])
    words.add_tokens([plain(name, normalized=True) for name in ("<｜fim▁hole｜>", "<｜User｜>", "<｜Assistant｜>")])
    words.add_tokens([plain("<think>", normalized=True), plain("</think>", normalized=False)])
    words.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, words.token_to_id(begin))]
    )
    return words


def gpt2():
    words = trained(1500, [], byte_level(True, True), continuing_subword_prefix="", end_of_word_suffix="")
    words.post_processor = processors.ByteLevel(trim_offsets=False)
    words.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    words.add_special_tokens([special("<mask>", lstrip=True), special("<sep>", lstrip=True, rstrip=True)])
    words.add_tokens([plain("loka", single_word=True), plain("  "), plain("    "), plain("été", rstrip=True)])
    return words


def llama():
    words = trained(
        1600, [], pre_tokenizers.Sequence([split(Regex(LLAMA)), byte_level(False, False)]), ignore_merges=True
    )
    names = ["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_special_token_{i}|>" for i in range(8)]
    words.add_special_tokens([special(name) for name in names])
    begin = "<|begin_of_text|>"
    words.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
                special_tokens=[(begin, words.token_to_id(begin))],
            ),
        ]
    )
    return words


def cased():
    """Upper and lower case apart, with text before and after."""
    words = trained(1200, [special("<s>"), special("</s>")], pre_tokenizers.Sequence(
        [split(Regex(CASED)), byte_level(False, False)]))
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, words.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return words


def behaviours():
    """Every other way of splitting, one after the other."""
    rules = [
        split("##", "removed"),
        split(Regex(r"[.!?]+"), "merged_with_previous"),
        split(Regex(r"[(\[{<]"), "merged_with_next"),
        split(Regex(r"\s"), "contiguous"),
        pre_tokenizers.Digits(individual_digits=False),
        split(Regex(r"[\p{L}\p{M}'_-]+"), "contiguous", True),
        pre_tokenizers.Digits(individual_digits=True),
    ]
    return trained(1000, [], pre_tokenizers.Sequence(rules + [byte_level(True, False)]))


LAYOUTS = {"deepseek": deepseek, "gpt2": gpt2, "llama": llama, "cased": cased, "behaviours": behaviours}


def texts():
    chance = random.Random(11)
    fixed = [
        "", " ", "  ", "\n", "\r\n\r\n", "\t \t", "a", "Hello, world!", " leading", "trailing   ",
        "two  spaces   three", "it's we'll THEY'VE I'm you'd don't CAN'T 'S 'ſ ' s",
        "1 12 123 1234 12345678901234567890 3.14159 ½ ² ⅷ ٣٤٥ १२३",
        "今天天气很好，我们去公园散步吧。東京へ行きたいです。カタカナとひらがな。龥龦ｶﾀｶﾅ 한국어 세계",
        "Привет, мир! Съешь ещё этих мягких французских булок.", "مرحبا بالعالم، هذا نص قصير.",
        "नमस्ते दुनिया यह छोटा पाठ", "สวัสดีชาวโลก", "👩‍👩‍👧 🏳️‍🌈 👍🏽 😀😀😀 🇩🇪", "e\u0301 \u0301e Å Å \ufb01 ǅ ʰ",
        "x\u0000y\u0001\u0007\u001b[0m\u007f\u0085\u009f",
        "a\u00a0b\u2003c\u3000d\u200be\u180ef\u2028g\u2029h\ufeff",
        "\u202eright\u202c \u2066x\u2069 \ufffd \ufffe \U0010ffff \ue000",
        "for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }  // sum\n\n\n    return total;\n",
        "https://example.org/a?b=c&d=%20#e user@example.org C:\\dir\\file_name-2.txt __init__ --flag $x ^^ `q`",
        "#hash ##removed###x ...!? (a[b{c<d>}]) ''' \"\"\"", "a\r b\n\rc\n\n \n d \n", "   \n   x\n     \t\n",
        "A" * 300, "ab" * 200, " " * 100 + "x", "\n" * 50, "-" * 120, "é" * 70 + "😀" * 40, "loremipsum" * 30,
        "i̇İIı ﬀ ß ẞ ŉ Ǆ", "ⓐⓩ Ⅻ ⁷ ﷺ ꙮ",
        "\U00011f02\U00016d40\U0001e4f0 \U00031350 \U0002ebf0 \u1c89\ua7cb \U0001fae8 \u1b4e \u0897",
    ]
    names = [
        "<｜begin▁of▁sentence｜>", "<｜User｜>", "<think>", "</think>", "<｜place▁holder▁no▁1｜>",
        "<｜place▁holder▁no▁11｜>", "<|endoftext|>", "<mask>", "<sep>", "loka", "été", "<|begin_of_text|>",
        "<|reserved_special_token_1|>", "<s>", "</s>", "<", "<｜", "｜>",
    ]
    for name in names:
        fixed += [name, f"a {name} b", f"a{name}b", f"x  {name}  \n y"]
        fixed += [f"{name}{name} {name}é", f"_{name}1 {name}\u0301"]
    alphabet = [chr(c) for c in range(0x250)] + list(" \n\t'0123456789" * 12)
    alphabet += [chr(c) for c in list(range(0x370, 0x600)) + list(range(0x900, 0x980)) + list(range(0x2000, 0x2100))]
    for low, high in ((0x3000, 0x3100), (0x4E00, 0x4F00), (0x1F600, 0x1F650)):
        alphabet += [chr(c) for c in range(low, high)]
    for length in (3, 8, 20, 60):
        fixed += ["".join(chance.choice(alphabet) for _ in range(length)) for _ in range(20)]
    fixed += ["".join(chance.choice(corpus_lines) for _ in range(2)) for _ in range(20)]
    return fixed


corpus_lines = corpus()


def main(folder):
    for name, layout in LAYOUTS.items():
        words = layout()
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        path = os.path.join(folder, name, "tokenizer.json")
        words.save(path, pretty=True)
        words = Tokenizer.from_file(path)
        cases = [{"text": text, "ids": words.encode(text, add_special_tokens=False).ids} for text in texts()]
        for case in cases[:20]:
            case["framed"] = words.encode(case["text"]).ids
        with open(os.path.join(folder, name, "cases.json"), "w", encoding="ascii") as file:
            file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
