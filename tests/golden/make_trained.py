# SPDX-License-Identifier: MIT
"""Tokenizers trained by Hugging Face's BpeTrainer on a small text of many kinds.

usage: python3 make_trained.py OUT

Writes OUT/corpus.txt, documents separated by a line that holds only "%%", and for every case below
OUT/<case>.json, the tokenizer.json that the library writes after training on those documents.
Needs tokenizers.
"""
import os
import random
import sys

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


def deepseek():
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in DEEPSEEK]
    return pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


CASES = {  # pre-tokenizer, special tokens, size of the vocabulary, least frequency
    "deepseek": (deepseek, SPECIAL, 700, 0),
    "gpt2": (gpt2, ["<|endoftext|>"], 700, 3),
    "exhausted": (deepseek, [], 100000, 4),
}

SYLLABLES = ["ka", "lo", "mi", "ter", "an", "sch", "ou", "ing", "é", "ß", "ñ", "ing", "re", "th"]
LINES = [
    "Die Größe übertrifft alles; naïve café façade — 1234567 Stück, 3.14159!",
    "今天天气很好，我们去公园散步吧。東京へ行きたいです。カタカナとひらがな。",
    "Привет, мир! Съешь ещё этих мягких французских булок.",
    "مرحبا بالعالم، هذا نص قصير للتجربة.",
    "नमस्ते दुनिया, यह एक छोटा पाठ है।",
    "👩‍👩‍👧 🏳️‍🌈 😀😀😀 emoji, and ½ ² ⅷ numbers ٣٤٥",
    "for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }  // sum",
    "def f(x):\n    if x is None:\n        return {}\n\n    return {'key': x ** 2}",
    "it's we'll they've I'm you'd don't CAN'T  two  spaces   three\tand\ttabs \t mixed",
    "aaaaaaaaaaaa bbbb aaab baaa abababababab -------- ====== ######## ... ?!?!",
    "line\r\nends\r\n\r\nof another system\u00a0with\u2003wide\u3000spaces\u200band none",
]


def corpus():
    chance = random.Random(20)
    words = ["".join(chance.choice(SYLLABLES) for _ in range(chance.randint(1, 4))) for _ in range(250)]
    documents = []
    for _ in range(24):
        lines = []
        for _ in range(chance.randint(1, 12)):
            if chance.random() < 0.4:
                lines.append(chance.choice(LINES))
            else:
                rank = [min(int(chance.paretovariate(0.8)), 249) for _ in range(chance.randint(3, 15))]
                lines.append(" ".join(words[r] for r in rank) + chance.choice([".", ",", "", " 2024", ";"]))
        documents.append("\n".join(lines) + chance.choice(["", "\n", "\n\n", "  "]))
    return documents


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    documents = corpus()
    with open(os.path.join(out, "corpus.txt"), "w", encoding="utf-8", newline="") as file:
        file.write("\n%%\n".join(documents))
    for name, (splitter, special, size, frequency) in CASES.items():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = splitter()
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=frequency, special_tokens=special,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        tokenizer.train_from_iterator(documents, trainer)
        tokenizer.save(os.path.join(out, name + ".json"), pretty=False)


main()
